"""Replies that are wrong on purpose: none changes the adapter, and each is named."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ConfigRecord, Context, Message, MetricRecord

from polyrank.flower.messages import ADAPTER, METRICS, REPLY
from polyrank.flower.server import serve
from tests.conftest import Configure
from tests.flower.conftest import QUICK, grid, lines, state

Change = Callable[[Message], None]


def _arrays(change: Callable[[str, np.ndarray], np.ndarray]) -> Change:
    def changed(reply: Message) -> None:
        record = reply.content.array_records[ADAPTER]
        for name in list(record):
            record[name] = Array(np.ascontiguousarray(change(name, record[name].numpy())))

    return changed


def _first(change: Callable[[Any, str], None]) -> Change:
    return lambda reply: change(reply.content.array_records[ADAPTER], next(iter(reply.content.array_records[ADAPTER])))


def _number(name: str, value: float) -> Change:
    def changed(reply: Message) -> None:
        numbers = dict(reply.content.metric_records[METRICS])
        reply.content[METRICS] = MetricRecord({**numbers, name: value})

    return changed


def _another(reply: Message) -> None:
    reply.content[REPLY] = ConfigRecord({**reply.content.config_records[REPLY], "token": "of the round before"})


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
    "a negative weight": (_number("weight", -3.0), "its weight is -3.0"),
    "weight 1e12": (_number("weight", 1e12), "its weight is 1000000000000.0"),
    "a loss of NaN": (_number("loss", float("nan")), "its loss is nan"),
    "an endless score": (_number("own/accuracy", float("inf")), "its own/accuracy is inf"),
    "1 GB": (_first(_large), "1000000000 bytes"),
    "another round's": (_another, "another request"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_reply_changes_nothing_and_is_named(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
):
    """The other five give the result, as if the sixth had not been asked."""
    change, reason = HOSTILE[kind]
    config = configure("federation.participation=1.0", "federation.rounds=1")
    silent, nodes = grid(), grid()

    def nothing(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "train":
            raise RuntimeError("no reply today")
        return silent.app(message, context)

    def hostile(message: Message, context: Context) -> Message:
        reply = nodes.app(message, context)
        if message.metadata.message_type == "train":
            change(reply)
        return reply

    silent.changed[103], nodes.changed[103] = nothing, hostile
    serve(silent, config, replace(QUICK, out=str(tmp_path / "silent"), repeats=0))
    with caplog.at_level(logging.WARNING):
        serve(nodes, config, replace(QUICK, out=str(tmp_path / "run"), repeats=0))
    assert state(tmp_path / "run").adapter.identical(state(tmp_path / "silent").adapter)
    (line,) = lines(tmp_path / "run")
    assert line["dropped"].keys() == {"client-03"}
    assert re.search(reason, line["dropped"]["client-03"])
    assert any("client-03" in record.getMessage() for record in caplog.records)
