"""``polyrank inspect``: what is in an adapter folder or a run folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polyrank.cli.adapters import MANY, describe_adapter, print_adapter
from polyrank.cli.console import number, out, percent, print_json, table
from polyrank.cli.options import Json
from polyrank.core.errors import AdapterError
from polyrank.core.text import one_line

if TYPE_CHECKING:
    from polyrank.core.state import ServerState
    from polyrank.runs.folder import RunFolder
    from polyrank.tasks import Task


def inspect(
    path: Annotated[Path, typer.Argument(help="Adapter folder (PEFT) or run folder.")],
    lowest: Annotated[
        int | None,
        typer.Option(
            min=1, help="Rank whose share of the energy is shown; default: the lowest of any client or module."
        ),
    ] = None,
    every: Annotated[
        bool, typer.Option("--modules", help=f"Show each module by itself, also where there are more than {MANY}.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show ranks, scales, norms, spectrum and bytes of an adapter, and for a run also how it went."""
    from polyrank.federation.round import global_model
    from polyrank.hf.peft import folder as peft_folder
    from polyrank.runs import checkpoint
    from polyrank.runs.folder import RunFolder

    if not path.exists():
        raise AdapterError(f"there is no {path}; expected an adapter folder or a run folder")
    run = RunFolder(path)
    described: dict[str, Any] | None = None
    if run.exists():
        state = checkpoint.load(run.checkpoint)
        described, adapter = _describe_run(run, state), global_model(state)
        lowest = lowest or min(state.ranks.values())
    else:
        adapter = peft_folder.read(path)
        lowest = lowest or min((factors.rank for factors in adapter.modules.values()), default=1)
    modules = describe_adapter(adapter, lowest)
    if as_json:
        dense = {name: list(tensor.shape) for name, tensor in adapter.dense.items()}
        print_json({"run": described, "lowest_rank": lowest, "modules": modules, "dense": dense})
        return
    if described:
        _print_run(described, run.task())
    print_adapter(adapter, modules, lowest, every=every)


def error_by_layer(by_module: Mapping[str, float | None]) -> list[dict[str, Any]]:
    """Aggregation errors of modules of the same last name: how many, their mean and the highest.

    A module whose error is not finite (it is None in metrics.jsonl: the clients' mean is 0) counts in ``modules`` only.
    """
    groups: dict[str, list[float | None]] = {}
    for module, error in by_module.items():
        groups.setdefault(module.rpartition(".")[2], []).append(error)
    rows: list[dict[str, Any]] = []
    for name, errors in groups.items():
        finite = [error for error in errors if error is not None]
        mean = sum(finite) / len(finite) if finite else None
        rows.append({"layer": name, "modules": len(errors), "mean": mean, "highest": max(finite, default=None)})
    return rows


def owners_by_row(weights: Sequence[float]) -> list[dict[str, Any]]:
    """Neighbouring rank indices with the same share of the weight together; the first rank index is 1."""
    rows: list[dict[str, Any]] = []
    for share, same in groupby(range(len(weights)), key=lambda j: round(weights[j], 6)):
        indices = list(same)
        rows.append({"first": indices[0] + 1, "last": indices[-1] + 1, "weight": share})
    return rows


def _describe_run(run: RunFolder, state: ServerState) -> dict[str, Any]:
    from polyrank.report.ending import unfinished
    from polyrank.report.runs import read
    from polyrank.runs.models import stay_with_clients

    found = read(run.path)
    config, lines = found.config, found.lines
    last = lines[-1] if lines else {}
    return {
        "method": config.aggregation.method,
        "stay_with_clients": list(stay_with_clients(config)),
        "model": config.model.name,
        "data": config.data.train,
        "rounds": len(lines),
        "rounds_planned": config.federation.rounds,
        "unfinished": unfinished(found),
        "clients_by_rank": dict(sorted(Counter(state.ranks.values()).items())),
        "untrained": found.untrained,
        "last": last or None,
        "error_by_layer": error_by_layer(last.get("aggregation/error_by_module", {})),
        "owners_by_row": owners_by_row(last.get("rows/owners_weight", [])),
        "dropped": sum(len(line.get("dropped", ())) for line in lines),
        "left_out": {client: about["left_out"] for client, about in found.clients.items() if about.get("left_out")},
    }


def _print_run(run: dict[str, Any], task: Task) -> None:
    from polyrank.tasks.metric import is_evaluated

    ranks = ", ".join(f"{count} at rank {rank}" for rank, count in run["clients_by_rank"].items())
    out.print(
        f"{run['method']} on {run['data']} with {run['model']}: {run['rounds']} of {run['rounds_planned']} rounds; "
        f"clients: {ranks}",
        markup=False,
        soft_wrap=True,
    )
    if run["unfinished"]:
        out.print(f"the run {run['unfinished']}", markup=False, soft_wrap=True)
    if run["stay_with_clients"]:
        stay = " and ".join(run["stay_with_clients"])
        out.print(
            f"each client keeps its own {stay}: test metrics are means over the round's clients, and the adapter below "
            f"is the server's, with {stay} as at the start; polyrank export --client NAME writes a client's own",
            markup=False,
            soft_wrap=True,
        )
    last = run["last"]
    if run["untrained"]:
        out.print(f"before the first round: {_scores(run['untrained'], task)}", markup=False, soft_wrap=True)
    if last and is_evaluated(last):
        out.print(
            f"last round: {_scores(last, task)}, aggregation error {number(last.get('aggregation/error'))}",
            markup=False,
            soft_wrap=True,
        )
    if last and "rank/effective" in last:
        out.print(
            f"effective rank {number(last['rank/effective'])}, {percent(last['rank/energy_in_lowest'])} of the energy "
            f"in the lowest rank; clients' drift {number(last['clients/drift'])}",
            markup=False,
            soft_wrap=True,
        )
    if run["owners_by_row"]:
        spans = [f"{_span(row['first'], row['last'])}: {percent(row['weight'])}" for row in run["owners_by_row"]]
        out.print(f"owners' weight by rank index: {', '.join(spans)}", markup=False, soft_wrap=True)
    if run["dropped"]:
        out.print(f"updates left out: {run['dropped']}; metrics.jsonl names them", markup=False)
    for line in _left_out(run["left_out"]):
        out.print(line, markup=False, soft_wrap=True)
    out.print()
    _print_kinds(run, task)
    if run["error_by_layer"]:
        made = table("aggregation error", "layers", "modules", "mean", "highest")
        for row in run["error_by_layer"]:
            made.add_row(row["layer"], str(row["modules"]), percent(row["mean"]), percent(row["highest"]))
        out.print(made)
        out.print()


def _scores(line: Mapping[str, Any], task: Task) -> str:
    """What was measured, for people."""
    from polyrank.tasks.metric import TEST

    curves = [metric for metric in task.metrics if metric.curve]
    return ", ".join(f"{metric.title} {metric.number(line.get(f'{TEST}{metric.name}'))}" for metric in curves)


def _left_out(by_client: Mapping[str, Mapping[str, int]]) -> list[str]:
    """A line per reason: how many rows of how many clients."""
    rows, clients = Counter[str](), Counter[str]()
    for own in by_client.values():
        rows.update(own)
        clients.update(own.keys())
    return [
        f"rows left out: {count} of {clients[reason]} client(s): {one_line(reason, 200)}; clients.json has each"
        for reason, count in rows.most_common()
    ]


def _print_kinds(run: Mapping[str, Any], task: Task) -> None:
    """The primary metric of each kind of text, before and now, the worst first."""
    from rich.text import Text

    from polyrank.tasks.metric import BY_KIND, TEST

    metric = task.primary
    key = f"{TEST}{metric.name}{BY_KIND}"
    before, now = ((line or {}).get(key) or {} for line in (run["untrained"], run["last"]))
    if not now:
        return
    made = table(f"{metric.title} by kind", "kind", "before the first round", "last round")
    for kind in sorted(now, key=lambda kind: metric.merit(metric.measured(now[kind]))):
        made.add_row(Text(one_line(kind, 60)), metric.number(before.get(kind)), metric.number(now[kind]))
    out.print(made)
    out.print()


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first} to {last}"
