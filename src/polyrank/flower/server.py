"""The ServerApp: `polyrank run`, with Flower's nodes in the place of the engine."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from logging import INFO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import Context
from flwr.common import log as flower_log
from flwr.serverapp import Grid, ServerApp

from polyrank import config as configuration
from polyrank.aggregation.as_sent import AsSent
from polyrank.config import Config
from polyrank.core.errors import ConfigError, RunFolderError, did_you_mean
from polyrank.federation.masked import Masked
from polyrank.flower.admission import Admission
from polyrank.flower.engine import FlowerEngine
from polyrank.flower.facts import MOST_EXAMPLES, question
from polyrank.flower.masked import carried, check_apart
from polyrank.flower.nodes import Nodes
from polyrank.flower.progress import Progress
from polyrank.flower.records import WIRE
from polyrank.ranks import Declared
from polyrank.runs.listener import Listener, Listeners

if TYPE_CHECKING:  # nodes import this file too, for every message, and transformers takes seconds
    from polyrank.federation.server import Server

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """Keys of the run configuration that are no part of the federation's.

    Args:
        out: run folder.
        resume: go on from the run in it.
        min_nodes: nodes to wait for; 0 is until every client of the configuration is on one.
        wait: seconds for them.
        min_replies: good replies of a round without which it does not count.
        repeats: how often a round that does not count is asked for again.
        timeout: seconds for a round's replies.
        wire: dtype of tensors on the way.
        most_examples: a client that says it has more is left out; examples are its weight.
    """

    out: str = "runs/flower"
    resume: bool = False
    min_nodes: int = 0
    wait: float = 600.0
    min_replies: int = 1
    repeats: int = 1
    timeout: float = 3600.0
    wire: str = "float32"
    most_examples: int = MOST_EXAMPLES


LEAST = {"min_nodes": 0, "wait": 0, "min_replies": 0, "repeats": 0, "timeout": 0.001, "most_examples": 1}
"""That settings which are numbers may be."""


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
    for name, least in LEAST.items():
        value, whole = getattr(settings, name), known[name].type == "int"
        if not least <= value < math.inf or (whole and not isinstance(value, int)):
            key, number = name.replace("_", "-"), "whole number" if whole else "finite number"
            raise ConfigError(f"run configuration: {key} is {value!r}; expected a {number} of {least:g} or more")
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

    The server needs the model and data of its own: labels where the task has some, the test set, and the set by which
    clients are scored.

    Raises:
        PolyRankError: too few nodes or replies, or what `polyrank.run` raises (resuming with another configuration is
            such an error). Finished rounds are saved.
    """
    from polyrank.runs.folder import RunFolder
    from polyrank.runs.runner import run

    def over(server: Server) -> Server:
        return over_flower(server, grid, settings)

    out = Path(settings.out)
    if not settings.resume and RunFolder(out).exists():
        raise RunFolderError(f"{out.absolute()} holds another run; go on with it by resume=true, or name another out")
    config = configuration.override(config, ["training.workers=1", "training.cluster=none"])
    listeners = Listeners([Progress(), *([listener] if listener else [])])
    return run(config, out, resume=settings.resume, listener=listeners, over=over)


def over_flower(server: Server, grid: Grid, settings: Settings) -> Server:
    """The server with the grid's nodes as its clients.

    Raises:
        FlowerError: too few nodes that fit the configuration; those that do not are left out by name.
        ConfigError: something would stay with the clients, which have no memory between messages; or they would choose
            rank indices; or a secure sum is asked for, and a node has several clients.
    """
    if keeps := server.method.keeps(local_head=server.local_head):
        raise ConfigError(
            f"with {server.method.info.name} and federation.head {server.config.federation.head}, "
            f"{' and '.join(sorted(keeps))} would stay with each client; on Flower clients keep nothing between rounds"
        )
    if server.method.info.chooses_indices:
        raise ConfigError(
            f"with {server.method.info.name} a client chooses the rank indices that it sends, for which no message "
            "has a place; take another method, or run it on this machine"
        )
    _check_privacy(server.config)
    labels = {"labels": list(server.site.labels)} if server.site.labels else {"labels": None, "label": ""}
    text = configuration.dump(server.config.model_copy(update={"data": server.config.data.model_copy(update=labels)}))
    read = Admission(server, settings.most_examples)
    nodes = Nodes(grid, question(text), read, settings.timeout)
    nodes.wait(settings.min_nodes, settings.wait, clients=0 if settings.min_nodes else len(server.clients))
    members = nodes.here()
    declared = {client: member.rank for client, member in members.items() if member.rank is not None}
    local = server.config.privacy.model == "local"
    if local and settings.repeats:
        flower_log(INFO, "privacy.model local: no round is repeated, as epsilon does not count a second answer")
    repeats = 0 if local else settings.repeats
    engine = FlowerEngine(
        nodes,
        text,
        server.site.task.metrics,
        wire=settings.wire,
        timeout=settings.timeout,
        least=settings.min_replies,
        repeats=repeats,
    )
    from polyrank.federation.population import Population  # imports transformers

    if server.accountant is not None and server.accountant.clients != len(members):
        raise ConfigError(
            f"privacy: there are {len(members)} nodes, and noise and budget were worked out for "
            f"{server.accountant.clients} clients; expected federation.clients to be the number of nodes"
        )
    gather = server.gather
    if server.config.secure.enabled:
        check_apart(members)
        gather = Masked(carried(engine), repeats=repeats, least=settings.min_replies)

    own = any(member.own for member in members.values())
    population = Population(
        {client: member.examples for client, member in members.items()},
        {client: member.labels for client, member in members.items()},
        {} if own else server.population.groups,
        {client: member.left_out for client, member in members.items() if member.left_out},
    )
    return replace(
        server,
        site=replace(server.site, examples={}) if own else server.site,  # its training data are nobody's
        population=population,
        engine=engine,
        gather=gather,
        method=AsSent(server.method, WIRE[settings.wire]),
        policy=Declared(server.config.ranks, inner=server.policy, ranks=declared),
        secret="" if server.config.privacy.model == "local" else server.secret,  # each node draws noise of its own
    )


def _check_privacy(config: Config) -> None:
    """Refuse what nodes say of their data where they trust nobody and have not accepted that.

    Raises:
        ConfigError: local privacy without ``privacy.accept = ["metrics"]``.
    """
    if config.privacy.model == "local" and "metrics" not in config.privacy.accept:
        raise ConfigError(
            "privacy.model local: nodes tell the server how many examples of each label they have, and the loss of "
            'each round; expected privacy.accept = ["metrics"]'
        )
