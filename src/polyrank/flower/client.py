"""The ClientApp: what trains on a node, asked by messages."""

from __future__ import annotations

import math
import secrets
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from logging import ERROR
from typing import TypeAlias

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.common import log

from polyrank import config as configuration
from polyrank.config import Config
from polyrank.core.errors import (
    AdapterError,
    ConfigError,
    DataError,
    FlowerError,
    LabelError,
    ModelError,
    SecureError,
    SiteError,
)
from polyrank.federation.participant import Participant
from polyrank.flower import held, masked_client
from polyrank.flower.facts import RECORD, Place, about, unknown_labels
from polyrank.flower.held import NodeConfig
from polyrank.flower.masked_client import masks_only
from polyrank.flower.messages import Asked, answer, read_question
from polyrank.flower.own_data import check_keys, participant
from polyrank.flower.records import shown
from polyrank.tasks import task
from polyrank.tasks.registry import AUTO
from polyrank.training.work import Outcome

MakeSite: TypeAlias = Callable[[Config, NodeConfig], Participant]
FAILED = {
    DataError: "the site's data do not fit the configuration",
    ModelError: "the site's base cannot be used",
    SiteError: "the site's daemon failed or cannot be reached",
}
"""What the server is told of errors that quote the site's data or name its files."""
UNSAID = "task.name=classification"
"""What a server means whose version knew no other task."""


def make_client_app(make_site: MakeSite | None = None, *, make_worker: object = None) -> ClientApp:
    """A ClientApp that trains what it is asked to.

    Args:
        make_site: a participant for the federation's configuration and the node's, for data or models of your own. It
            is kept for all nodes of the process whose configurations say the same where it looked; by default
            `participant`.
        make_worker: what it was called before.

    Raises:
        ConfigError: there is a ``make_worker``.
    """
    if make_worker is not None:
        raise ConfigError(
            "make_client_app has make_worker, which is make_site now: it returns a participant (facts, do) such as "
            "polyrank.federation.loading.participant(config)"
        )
    app, name = ClientApp(), secrets.token_hex(8)
    make = make_site or participant

    def made(text: str, node: NodeConfig) -> Participant:
        return make(_parsed(text), node)

    def done(asked: Asked, context: Context) -> Outcome:
        check_noise(asked.work.noise, context.node_config)
        own = held.participant(name, made, asked.config, context.node_config)
        scored = asked.work.round > 0 and scores_own(context.node_config)
        return own.do(replace(asked.work, scored=scored))

    @app.query()
    def facts(message: Message, context: Context) -> Message:
        """What the node says of itself."""
        with _only_what_may_leave():
            scores_own(context.node_config)  # refused now, and not in the first round
            least_noise(context.node_config)
            if make_site is None:
                check_keys(context.node_config)
            text = str(message.content.config_records[RECORD]["config"])
            federation = _parsed(text)
            learned, labels = task(federation), federation.data.labels or ()
            if learned.labelled and not labels:
                raise FlowerError("the server names no labels (data.labels), and a site says none that was not sent")
            own = held.participant(name, made, text, context.node_config)
            who, clients = served(own, context.node_config, federation)
            rank = context.node_config.get("lora-rank")
            content = about(who, rank, learned, labels, [own.facts(client) for client in clients])
        return Message(content, reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        """One client's local training; before it, what was sent is scored on the node's own test set, if it has one."""
        with _only_what_may_leave():
            if masks_only(context.node_config):
                raise FlowerError("the node sends what it trained under masks alone; set secure.enabled")
            asked = read_question(message.content)
            start = time.perf_counter()
            outcome = done(asked, context)
            if outcome.seconds is None:  # of a participant that does not look at the clock
                outcome = replace(outcome, seconds=time.perf_counter() - start)
            content = answer(outcome, asked)
        return Message(content, reply_to=message)

    @app.query("cards")
    def cards(message: Message, context: Context) -> Message:
        """The first step of a secure sum; see `polyrank.flower.masked_client`."""
        with _only_what_may_leave():
            return masked_client.card(message, context)

    @app.query("sealed")
    def sealed(message: Message, context: Context) -> Message:
        """The second step."""
        with _only_what_may_leave():
            return masked_client.sealed(message, context)

    @app.train("masked")
    def masked(message: Message, context: Context) -> Message:
        """The third step, in which the client trains."""
        with _only_what_may_leave():
            return masked_client.masked(message, _parsed, partial(done, context=context), context)

    @app.query("shares")
    def shares(message: Message, context: Context) -> Message:
        """The last step."""
        with _only_what_may_leave():
            return masked_client.shares(message, context)

    return app


def _parsed(text: str) -> Config:
    try:
        found = configuration.parse(tomllib.loads(text), "the server's configuration")
        return configuration.override(found, [UNSAID]) if found.task.name == AUTO else found
    except (ConfigError, tomllib.TOMLDecodeError) as error:
        raise FlowerError(f"the server's configuration cannot be read: {error}; have both the same version?") from None


@contextmanager
def _only_what_may_leave() -> Iterator[None]:
    """Whatever fails is in the node's log, and the server is told no value of the site's data.

    Raises:
        FlowerError: in its place.
    """
    try:
        yield
    except Exception as error:
        log(ERROR, "the node failed: %s: %s", type(error).__name__, error, exc_info=error)
        raise FlowerError(_for_the_server(error)) from None


def _for_the_server(error: Exception) -> str:
    """Why a node failed: in full where it can neither quote the site's data nor name its files."""
    if isinstance(error, LabelError) and error.unknown:
        return unknown_labels(error.known, error.unknown)
    if isinstance(error, FlowerError | AdapterError | SecureError):
        return str(error)
    what = next((words for kind, words in FAILED.items() if isinstance(error, kind)), "the node failed")
    return f"{what} ({type(error).__name__}); its log has the reason"


def _whole(key: str, node: NodeConfig) -> int:
    """A number of the node's configuration, which may be in quotes there; 1.5 is not rounded to some client.

    Raises:
        FlowerError: it is no whole number.
    """
    found = node[key]
    try:
        number = int(found)
        if isinstance(found, str) or (number == found and not isinstance(found, bool)):
            return number
    except (ValueError, OverflowError):
        pass
    raise FlowerError(f"the node's {key} is {shown(found)}; expected a whole number of 0 or more")


def scores_own(node: NodeConfig) -> bool:
    """Whether a node scores what it is sent, on its own test set: ``evaluate``, by default where it has own data.

    Raises:
        FlowerError: ``evaluate`` is neither true nor false.
    """
    chosen = node.get("evaluate", "data-train" in node or "site-socket" in node)
    if not isinstance(chosen, bool):
        raise FlowerError(f"the node's evaluate is {chosen!r}; expected true or false")
    return chosen


def least_noise(node: NodeConfig) -> float:
    """The noise without which a node sends nothing: ``least-noise``, in units of the clip; 0 where it asks for none.

    Raises:
        FlowerError: it is no number above 0.
    """
    if "least-noise" not in node:
        return 0.0
    found = node["least-noise"]
    try:
        least = math.nan if isinstance(found, bool) else float(found)
    except (TypeError, ValueError):
        least = math.nan
    if not 0 < least < math.inf:
        raise FlowerError(f"the node's least-noise is {shown(found)}; expected a number above 0")
    return least


def check_noise(asked: float, node: NodeConfig) -> None:
    """Refuse to train for a server that asks for less noise than the node wants, or for none.

    Raises:
        FlowerError: as said.
    """
    if asked < (least := least_noise(node)):
        raise FlowerError(
            f"the node sends what it trained with noise of {least:g} clips or more (least-noise), and {asked:g} was "
            "asked for; set privacy.model local, and privacy.noise or a lower privacy.budget"
        )


def served(own: Participant, node: NodeConfig, federation: Config) -> tuple[str | Place, Sequence[str]]:
    """Whom a node serves, as it may say it, and the names by which its participant knows them.

    One client: ``client`` of the node's configuration, or ``client-N`` for ``partition-id=N`` where the data are its
    own. Where they are the federation's, that at place N in the order of the names, and with ``num-partitions``, as in
    a simulation, every so many after it; the names are not said, since they may be values of a column.

    Raises:
        FlowerError: there is neither a name nor a place.
    """
    if "client" in node:
        return (name := str(node["client"])), [name]
    if "partition-id" not in node:
        raise FlowerError("the node has no name; give it client=NAME in --node-config (and lora-rank=R)")
    place = Place(_whole("partition-id", node), _whole("num-partitions", node) if "num-partitions" in node else None)
    if "data-train" not in node and "site-socket" not in node:
        from polyrank.federation.site import Site  # imports transformers

        clients = sorted(own.examples) if isinstance(own, Site) else []  # of others it is not known whom they hold
        if len(clients) > 1 or len(clients) == federation.federation.clients:
            return place, place.of(clients)
    return (name := f"client-{place.first}"), [name]
