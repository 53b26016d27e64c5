"""``polyrank methods``: what there is, and what it costs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polyrank.cli.console import out, print_json, size, table
from polyrank.cli.options import Json, Overrides

if TYPE_CHECKING:
    from polyrank.aggregation import Method
    from polyrank.config import Config
    from polyrank.core.state import ServerState


def methods(
    config: Annotated[Path | None, typer.Argument(help="TOML file; without it the quickstart.")] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """List the aggregation methods: what is averaged, whether it is exact, and its bytes for a configuration."""
    from polyrank import config as configuration
    from polyrank.aggregation import METHODS, build

    chosen = configuration.load(config, overrides or [])
    build(chosen.aggregation.method, chosen.aggregation.options)  # a wrong name is an error before the work
    state, ranks = _first_state(chosen)
    rows: list[dict[str, Any]] = []
    for name in METHODS:
        options = chosen.aggregation.options if name == chosen.aggregation.method else {}
        method = build(name, options)
        rows.append(facts(method) | costs(method, state, ranks, local_head=chosen.federation.head == "local"))
    if as_json:
        print_json(rows)
    else:
        _print(rows, ranks, chosen)


def facts(method: Method) -> dict[str, Any]:
    """What the registry and the method's rounds say of it, whatever the model.

    ``base_change`` is ``"no"``, ``"sent"`` where clients are sent it, ``"kept"`` where only the server has it, or
    ``"rest"`` where the server has none and clients are sent the rank indices that they do not train.
    """
    from polyrank.aggregation import options
    from polyrank.federation.traffic import sends_change

    first, second = method.parts(1), method.parts(2)
    changes = "no" if not method.info.changes_base else "sent" if sends_change(method) else "kept"
    if method.info.sends_rest and changes == "no":
        changes = "rest"
    return {
        **asdict(method.info),
        "secure": method.secure,
        "base_change": changes,
        "options": options(method.info.name),
        "sends": sorted(first.sends),
        "receives": sorted(first.receives),
        "keeps": sorted(first.keeps),
        "alternates": first != second,
    }


def costs(method: Method, state: ServerState, ranks: Iterable[int], *, local_head: bool) -> dict[str, Any]:
    """Bytes of one client in the first round, at most, by its rank, and those of a base change later.

    The round's own functions say what travels. A base change that clients are sent becomes at most as wide as each
    layer's smaller side, or as the method's ``max_rank`` (to which fedex adds the rank indices that a client does not
    train): ``base_change_at_most`` is its bytes then, 0 without one.
    """
    from polyrank.federation.round import parts_of
    from polyrank.federation.traffic import down, sent_back, up

    parts = parts_of(method, 1, local_head=local_head)
    by_rank = {}
    for rank in ranks:
        sent = method.read_out(state, rank, "")
        back = sent_back(method, sent.adapter, rank, parts.sends, most=True)
        by_rank[rank] = {"up": up(parts, back), "down": down(parts, sent)}
    most = 0
    if facts(method)["base_change"] == "sent":
        for factors in state.adapter.modules.values():
            side = min(factors.d_in, factors.d_out)
            rank = min(method.max_rank or side, side)
            most += rank * (factors.d_in + factors.d_out) * factors.a.element_size()
    return {"bytes": by_rank, "base_change_at_most": most}


def _first_state(config: Config) -> tuple[ServerState, list[int]]:
    """The server before the first round of a configuration, and the lowest and the highest rank of its clients."""
    from polyrank import tasks
    from polyrank.core.state import ServerState
    from polyrank.federation.loading import skeleton
    from polyrank.federation.planned import planned_ranks
    from polyrank.federation.population import initial, load_data

    config = tasks.settled(config)
    train = load_data(config).train
    base = skeleton(config, tasks.task(config).outputs(train))
    ranks = planned_ranks(config, train)
    return ServerState(0, initial(base, config), {}, {}), sorted({ranks[0], ranks[-1]})


def _print(rows: list[dict[str, Any]], ranks: list[int], config: Config) -> None:
    which = " / ".join(map(str, ranks))
    title = f"bytes per client in the first round at rank {which}, {config.model.name} on {config.data.train}"
    made = table(title, "method", "averages", "exact", "secure sum", "up", "down", "base change", "paper")
    for column in made.columns:
        column.justify = "left"
    for row in rows:
        most = size(row["base_change_at_most"])
        base = {"no": "-", "sent": f"down, to {most}", "kept": "on the server", "rest": "the rest"}
        made.add_row(
            row["name"] + (" (equal ranks)" if row["equal_ranks"] else ""),
            row["averages"],
            row["exact"],
            "yes" if row["secure"] else "no",
            " / ".join(size(row["bytes"][rank]["up"]) for rank in ranks),
            " / ".join(size(row["bytes"][rank]["down"]) for rank in ranks),
            base[row["base_change"]],
            row["paper"].removeprefix("https://") or "our own",
        )
    out.print(made)
    out.print(
        "\nexact: the global model's change is the weighted mean of the clients' products. secure sum: sums over "
        "clients are all\nthat the server needs. base change: comes down beside the adapter from round 2 on and grows "
        "to so many bytes, or as\nfar as max_rank; the rest: of the rank indices, frozen, in every round.",
        highlight=False,
    )
