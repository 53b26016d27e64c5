"""The ServerApp: `polyrank run`, with Flower's nodes in the place of the engine."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from logging import INFO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import Context
from flwr.common import log as flower_log
from flwr.serverapp import Grid, ServerApp

from polyrank import config as configuration
from polyrank.aggregation.as_sent import AsSent
from polyrank.config import Config
from polyrank.data import Partition
from polyrank.errors import ConfigError, FlowerError, RunFolderError, did_you_mean
from polyrank.federation.listener import Listener, Listeners
from polyrank.flower.engine import FlowerEngine
from polyrank.flower.messages import question, read_answer
from polyrank.flower.nodes import Member, Nodes
from polyrank.flower.progress import Progress
from polyrank.flower.records import WIRE
from polyrank.ranks import Declared
from polyrank.tasks.classification import Examples

if TYPE_CHECKING:  # nodes import this file too, for every message, and transformers takes seconds
    from polyrank.federation.setup import Federation

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """Keys of the run configuration that are no part of the federation's.

    Args:
        out: run folder.
        resume: go on from the run in it.
        min_nodes: nodes to wait for; 0 is as many as the configuration has clients.
        wait: seconds for them.
        min_replies: good replies of a round without which it does not count.
        repeats: how often a round that does not count is asked for again.
        timeout: seconds for a round's replies.
        wire: dtype of tensors on the way.
    """

    out: str = "runs/flower"
    resume: bool = False
    min_nodes: int = 0
    wait: float = 600.0
    min_replies: int = 1
    repeats: int = 1
    timeout: float = 3600.0
    wire: str = "float32"


def read_settings(run_config: Mapping[str, Any]) -> tuple[Settings, Config]:  # Any: Flower's values
    """Settings and configuration of a run.

    Raises:
        ConfigError: a key or a value is unknown.
    """
    own, overrides = {}, []
    known = Settings.__dataclass_fields__
    for key, value in run_config.items():
        name = key.replace("-", "_")
        if "." in key:
            overrides.append(f"{key}={str(value).lower() if isinstance(value, bool) else value}")
        elif name not in known:
            raise ConfigError(f"run configuration: {key}: {did_you_mean(key, [k.replace('_', '-') for k in known])}")
        elif isinstance(value, bool) != (known[name].type == "bool") or isinstance(value, str) != (
            known[name].type == "str"
        ):
            raise ConfigError(f"run configuration: {key} is {value!r}; expected a value like {known[name].default!r}")
        else:
            own[name] = value
    settings = Settings(**own)
    if settings.wire not in WIRE:
        raise ConfigError(f"run configuration: wire is {settings.wire!r}; {did_you_mean(settings.wire, WIRE)}")
    return settings, configuration.load(None, overrides)


def make_server_app(config: Config | None = None, listener: Listener | None = None) -> ServerApp:
    """A ServerApp that runs a federation over Flower's nodes.

    Args:
        config: the federation; by default the run configuration says what it is.
        listener: told of progress.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        settings, found = read_settings(context.run_config)
        flower_log(INFO, "PolyRank's run folder: %s", Path(settings.out).absolute())
        serve(grid, config or found, settings, listener)

    return app


def serve(grid: Grid, config: Config, settings: Settings, listener: Listener | None = None) -> dict[str, Any]:
    """Run the federation to its end and return its summary.

    The server needs the model and data of its own: labels, the test set, and the set by which clients are scored.

    Raises:
        PolyRankError: too few nodes or replies, or what `polyrank.run` raises (resuming with another configuration is
            such an error). Finished rounds are saved.
    """
    from polyrank.federation.run_folder import RunFolder
    from polyrank.federation.runner import run

    def place(federation: Federation) -> Federation:
        return over_flower(federation, grid, settings)

    out = Path(settings.out)
    if not settings.resume and RunFolder(out).exists():
        raise RunFolderError(f"{out.absolute()} holds another run; go on with it by resume=true, or name another out")
    config = configuration.override(config, ["training.workers=1"])
    listeners = Listeners([Progress(), *([listener] if listener else [])])
    return run(config, out, resume=settings.resume, listener=listeners, place=place)


def over_flower(federation: Federation, grid: Grid, settings: Settings) -> Federation:
    """The federation with the grid's nodes as its clients.

    Raises:
        FlowerError: too few nodes, or nodes do not fit the configuration.
        ConfigError: something would stay with the clients, which have no memory between messages.
    """
    from polyrank.federation.setup import global_rank

    if keeps := federation.parts(1).keeps | federation.parts(2).keeps:
        raise ConfigError(
            f"with {federation.method.info.name} and federation.head {federation.config.federation.head}, "
            f"{' and '.join(sorted(keeps))} would stay with each client; on Flower clients keep nothing between rounds"
        )
    named = federation.config.data.model_copy(update={"labels": list(federation.labels)})
    text = configuration.dump(federation.config.model_copy(update={"data": named}))
    nodes = Nodes(grid, question(text), read_answer, settings.timeout)
    nodes.wait(settings.min_nodes or len(federation.clients), settings.wait)
    members = {member.client: member for member in nodes.members.values()}
    highest = global_rank(federation.config)
    for member in members.values():
        if member.rank is not None and member.rank > highest:
            raise FlowerError(
                f"{member.client} declares rank {member.rank}, and the global adapter has {highest}; add the rank to "
                "ranks.levels"
            )
        if different := sorted(member.shapes.items() ^ federation.resident.shapes.items()):
            name, shape = different[0]
            raise FlowerError(
                f"{member.client} and the server adapt different modules, such as {name} {shape}; give both the same "
                "model.name and model.targets"
            )
        if member.names != federation.labels:
            raise FlowerError(
                f"{member.client} counts the labels {', '.join(member.names[:5])} ({len(member.names)}), the server "
                f"{', '.join(federation.labels[:5])} ({len(federation.labels)}); give all of them the same data.labels"
            )
    declared = {member.client: member.rank for member in members.values() if member.rank is not None}
    ours = federation.examples
    strangers = {client: member for client, member in members.items() if client not in ours}
    if strangers and any(client in ours for client in members):
        raise FlowerError(
            f"some nodes hold clients of the configuration and {sorted(strangers)[:3]} do not; give all of them "
            "partition-id, or all of them data of their own"
        )
    engine = FlowerEngine(
        nodes,
        text,
        wire=settings.wire,
        timeout=settings.timeout,
        least=settings.min_replies,
        repeats=settings.repeats,
    )
    return replace(
        federation,
        examples={client: ours.get(client) or _unseen(member) for client, member in members.items()},
        partition=federation.partition if not strangers else Partition({}, {}),
        engine=engine,
        method=AsSent(federation.method, WIRE[settings.wire]),
        policy=Declared(federation.config.ranks, inner=federation.policy, ranks=declared),
    )


def _unseen(member: Member) -> Examples:
    """As many examples of each label as the client says it has, without their text."""
    labels = np.repeat(np.arange(len(member.labels)), member.labels)
    return Examples(tuple(np.empty(0, dtype=np.int64) for _ in labels), labels, 0)
