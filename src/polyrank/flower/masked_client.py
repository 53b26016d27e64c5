"""A node's side of a secure sum: its four steps, with its secrets in the node's own memory between them.

Flower starts a process for each message and gives it the node's ``context.state``, which never leaves the node.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias, TypeVar

from flwr.app import ConfigRecord, Context, Message

from polyrank import aggregation
from polyrank.config import Config
from polyrank.core import codec
from polyrank.core.errors import FlowerError
from polyrank.federation.masked import contributed as contribution
from polyrank.flower.held import NodeConfig
from polyrank.flower.masked_messages import (
    Asks,
    Box,
    Contribute,
    Survivors,
    contributed,
    no_tensor,
    read_said,
    said,
)
from polyrank.flower.messages import Asked, read_question, read_value
from polyrank.secure import client as member
from polyrank.secure.values import Roster
from polyrank.training.work import Outcome

T = TypeVar("T")

MEMORY = "polyrank-secure"
"""Where the node keeps what the client has to remember, and nothing else."""
Train: TypeAlias = Callable[[Asked], Outcome]
"""Does a client's work on its node."""


def card(message: Message, context: Context) -> Message:
    """Publish keys for one sum."""
    token, asked = read_said(Asks, message.content)
    state = member.opened(token, asked.client)
    _remember(context, state)
    return Message(said(token, state.card), reply_to=message)


def sealed(message: Message, context: Context) -> Message:
    """Share out the secrets behind them."""
    token, roster = read_said(Roster, message.content)
    state, box = member.shared(_recalled(member.Opened, context), roster)
    _remember(context, state)
    return Message(said(token, Box(box)), reply_to=message)


def masked(message: Message, parsed: Callable[[str], Config], train: Train, context: Context) -> Message:
    """Train, and send what comes of it under the masks."""
    asked = read_question(message.content)
    _, brought = read_said(Contribute, message.content, asked.token)
    state = _recalled(member.Shared, context)
    if (asked.token, asked.work.client) != (state.opened.token, state.opened.client):
        raise FlowerError("the node's secrets are of another attempt, or of another client")
    start = time.perf_counter()
    outcome = train(asked)
    if outcome.seconds is None:
        outcome = replace(outcome, seconds=time.perf_counter() - start)
    config, plan = parsed(asked.config), brought.plan
    method = aggregation.build(config.aggregation.method, config.aggregation.options)
    vector = contribution(plan, method, config, asked.work, outcome)
    sent, numbers = member.masked(state, brought.sealed, vector, plan.together(method))
    _remember(context, sent)
    return Message(contributed(replace(outcome, trained={}), asked, numbers), reply_to=message)


def shares(message: Message, context: Context) -> Message:
    """Help to open the sum, once; then all of it is forgotten."""
    token, survivors = read_said(Survivors, message.content)
    state = _recalled(member.Sent, context)
    if token != state.token:
        raise FlowerError("the node's secrets are of another attempt")
    _forget(context)
    return Message(said(token, member.told(state, survivors.clients)), reply_to=message)


def masks_only(node: NodeConfig) -> bool:
    """Whether a node sends what it trained under masks alone: ``secure`` of its configuration.

    Raises:
        FlowerError: that is neither true nor false.
    """
    chosen = node.get("secure", False)
    if not isinstance(chosen, bool):
        raise FlowerError(f"the node's secure is {chosen!r}; expected true or false")
    return chosen


def _remember(context: Context, state: object) -> None:
    text = json.dumps(codec.encode(state)[0])
    context.state[MEMORY] = ConfigRecord({type(state).__name__: text})


def _recalled(kind: type[T], context: Context) -> T:
    text = context.state.config_records.get(MEMORY, ConfigRecord()).get(kind.__name__)
    if not isinstance(text, str):
        raise FlowerError(
            "the node has no secrets of the step before; it has forgotten them (a restart), or was asked out of turn"
        )
    return read_value(kind, text, no_tensor)


def _forget(context: Context) -> None:
    del context.state[MEMORY]
