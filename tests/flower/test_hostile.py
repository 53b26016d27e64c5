"""Replies that are wrong on purpose: none changes the adapter, and each is named."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ConfigRecord, Context, Message

from polyrank.core.adapter import Adapter
from polyrank.flower.messages import OUTCOME, TRAINED
from polyrank.flower.server import serve
from tests.conftest import Configure
from tests.flower.conftest import QUICK, grid, lines, state

Change = Callable[[Message], None]


def _arrays(change: Callable[[str, np.ndarray], np.ndarray]) -> Change:
    def changed(reply: Message) -> None:
        record = reply.content.array_records[TRAINED]
        for name in list(record):
            record[name] = Array(np.ascontiguousarray(change(name, record[name].numpy())))

    return changed


def _first(change: Callable[[Any, str], None]) -> Change:
    return lambda reply: change(reply.content.array_records[TRAINED], next(iter(reply.content.array_records[TRAINED])))


def _said(change: Callable[[dict[str, Any]], object]) -> Change:
    """With another header."""

    def changed(reply: Message) -> None:
        about = dict(reply.content.config_records[OUTCOME])
        header = json.loads(str(about[OUTCOME]))
        change(header)
        reply.content[OUTCOME] = ConfigRecord({**about, OUTCOME: json.dumps(header)})

    return changed


def _number(name: str, value: float) -> Change:
    return _said(lambda header: header.update({name: value}))


def _text(text: str) -> Change:
    def changed(reply: Message) -> None:
        reply.content[OUTCOME] = ConfigRecord({**reply.content.config_records[OUTCOME], OUTCOME: text})

    return changed


def _another(reply: Message) -> None:
    reply.content[OUTCOME] = ConfigRecord({**reply.content.config_records[OUTCOME], "token": "of the round before"})


def _no_tensors(reply: Message) -> None:
    del reply.content[TRAINED]


def _out(reply: Message) -> None:
    _no_tensors(reply)
    _said(lambda header: header.update(trained=None, problem="no example today\n\x1b[2J" + "x" * 10**5))(reply)


def _large(record: Any, name: str) -> None:
    record[name].data = bytes(10**9)


def _declared(record: Any, name: str) -> None:
    values = record[name].numpy()
    record[name] = Array(values[:1])
    record[name].shape = values.shape


HOSTILE: dict[str, tuple[Change, str]] = {
    "rank 1": (_arrays(lambda n, v: v[:1] if n.endswith(".a") else v[:, :1] if n.endswith(".b") else v), "shape"),
    "rank 1, declared as more": (_first(_declared), "shape"),
    "B transposed": (_arrays(lambda n, v: v.T if n.endswith(".b") else v), "shape"),
    "a missing key": (_first(lambda record, name: record.pop(name)), "missing tensors"),
    "an extra key": (
        _first(lambda record, name: record.__setitem__("more", record[name])),
        r"unknown ones: \['more'\]",
    ),
    "float64": (_arrays(lambda _, v: v.astype(np.float64)), "bytes|float64"),
    "NaN": (_arrays(lambda _, v: v * np.float32("nan")), "NaN or infinite"),
    "1e30": (_arrays(lambda _, v: v * 0 + np.float32(1e30)), r"holds 1e\+30"),
    "weight 0": (_number("weight", 0.0), "its weight is 0.0"),
    "a negative weight": (_number("weight", -3.0), "weight: Input should be greater than or equal to 0"),
    "a weight of NaN": (_number("weight", float("nan")), "weight: Input should be"),
    "weight 1e12": (_number("weight", 1e12), "its weight is 1000000000000.0"),
    "a loss of NaN": (_said(lambda h: h["metrics"].update(loss=float("nan"))), "its loss is nan"),
    "no loss": (_said(lambda h: h["metrics"].pop("loss")), "does not say its loss"),
    "endless steps": (_said(lambda h: h["metrics"].update(steps=10**400)), "its steps is beyond any float"),
    "NaN seconds": (_number("seconds", float("nan")), "seconds: Input should be"),
    "no seconds": (_said(lambda h: h.update(seconds=None)), "does not say its seconds"),
    "an endless score": (
        _said(lambda h: h.update(scores={"accuracy": float("inf")})),
        "its own/accuracy is inf",
    ),
    "another client": (_said(lambda h: h.update(client="client-00")), "reply is of 'client-00', expected 'client-03'"),
    "a field of its own": (_said(lambda h: h.update({"\x1b[2J\n": 1})), "in it is unknown"),
    "a tensor unsaid": (_said(lambda h: h["trained"].popitem()), "says nothing of"),
    "a tensor of 4 PB said": (
        _said(lambda h: h["trained"].update({next(iter(h["trained"])): [2**39, 2**39]})),
        "which was not asked for",
    ),
    "a tensor said beside": (_said(lambda h: h["trained"].update(more=[1])), "more' has shape .*not asked for"),
    "no tensors": (_no_tensors, "missing tensors"),
    "nothing trained, and tensors": (_said(lambda h: h.update(trained=None)), "trained nothing: no reason given"),
    "a reason of 100 000 letters": (_out, r"^it trained nothing: no example today  \[2Jx+\.\.\.$"),
    "no JSON": (_text("}"), "cannot be read: Expecting value"),
    "a list": (_text("[1]"), "cannot be read"),
    "deep JSON": (_text("[" * 100_000), "cannot be read"),
    "JSON as deep as is just read": (_text('{"client":' * 900 + "1" + "}" * 900), "cannot be read"),
    "a number of 5000 digits": (_text('{"client": ' + "9" * 5000 + "}"), "cannot be read"),
    "1 GB": (_first(_large), "1000000000 bytes"),
    "another round's": (_another, "another request"),
}


ONE_ROUND = ("federation.participation=1.0", "federation.rounds=1")


@pytest.fixture
def without(configure: Configure, tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    """What comes of the round where the sixth client says nothing; run once."""
    folder = tmp_path_factory.getbasetemp() / "silent"
    if not folder.exists():
        nodes = grid()

        def nothing(message: Message, context: Context) -> Message:
            if message.metadata.message_type == "train":
                raise RuntimeError("no reply today")
            return nodes.app(message, context)

        nodes.changed[103] = nothing
        serve(nodes, configure(*ONE_ROUND), replace(QUICK, out=str(folder), repeats=0))
    return state(folder).adapter


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_reply_changes_nothing_and_is_named(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture, without: Adapter, kind: str
):
    """The other five give the result, as if the sixth had not been asked."""
    change, reason = HOSTILE[kind]
    nodes = grid()

    def hostile(message: Message, context: Context) -> Message:
        reply = nodes.app(message, context)
        if message.metadata.message_type == "train":
            change(reply)
        return reply

    nodes.changed[103] = hostile
    with caplog.at_level(logging.WARNING):
        serve(nodes, configure(*ONE_ROUND), replace(QUICK, out=str(tmp_path / "run"), repeats=0))
    assert state(tmp_path / "run").adapter.identical(without)
    (line,) = lines(tmp_path / "run")
    assert line["dropped"].keys() == {"client-03"}
    assert re.search(reason, line["dropped"]["client-03"])
    assert line["dropped"]["client-03"].isprintable()
    assert len(line["dropped"]["client-03"]) < 600
    assert any("client-03" in record.getMessage() for record in caplog.records)
