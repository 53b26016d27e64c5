"""Secure sums over nodes in this process: the plain run's adapter, and no client's numbers in what the server gets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict

import polyrank
from polyrank import config as configuration
from polyrank.core.errors import ConfigError, FlowerError, SecureError
from polyrank.flower import make_client_app, masked_client
from polyrank.flower.masked_messages import CARDS, MASKED, NUMBERS, SEALED, SHARES, STEP
from polyrank.flower.server import serve
from tests.conftest import Configure
from tests.flower.conftest import QUICK, InProcess, apart, grid, lines, state


class Listening(InProcess):
    """Nodes of which everything is kept that the server was sent."""

    def __init__(self, clients: int = 6) -> None:
        super().__init__(make_client_app(), {100 + i: {"partition-id": i} for i in range(clients)})
        self.received: list[Message] = []

    def pull_messages(self, message_ids: Any) -> Any:
        found = list(super().pull_messages(message_ids))
        self.received += found
        return found


@pytest.mark.parametrize("method", ["replication", "owner_mean", "zero_padding", "ffa"])
def test_ranks_2_5_and_20_give_the_plain_runs_adapter(secure: Configure, tmp_path: Path, method: str):
    config = secure(f"aggregation.method={method}")
    nodes = grid()
    serve(nodes, config, replace(QUICK, out=str(tmp_path / "secure")))
    polyrank.run(configuration.override(config, ["secure.enabled=false"]), tmp_path / "plain")
    assert apart(state(tmp_path / "secure").adapter, state(tmp_path / "plain").adapter) < 2e-5
    for one, other in zip(lines(tmp_path / "secure"), lines(tmp_path / "plain"), strict=True):
        assert one["test/loss"] == pytest.approx(other["test/loss"], abs=1e-5)
        assert (one["clients"], one["dropped"]) == (other["clients"], {})
        assert one["bytes/up"] > other["bytes/up"]
    assert "train" not in {message.metadata.message_type for message in nodes.sent}
    assert not any(context.state.config_records for context in nodes.contexts.values())  # secrets are forgotten


def test_the_server_receives_no_clients_numbers(secure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """All replies of a run, beside what each client contributed: in its training and before its mask."""
    plain: dict[str, tuple[dict[str, torch.Tensor], np.ndarray]] = {}
    contribution = masked_client.contribution

    def seen(plan: Any, method: Any, config: Any, work: Any, outcome: Any) -> np.ndarray:
        vector = contribution(plan, method, config, work, outcome)
        plain[work.client] = outcome.trained, vector
        return vector

    monkeypatch.setattr(masked_client, "contribution", seen)
    nodes = Listening()
    serve(nodes, secure("federation.rounds=1"), replace(QUICK, out=str(tmp_path / "run")))
    arrays, words = [], ""
    for message in nodes.received:
        records = message.content
        arrays += [(message, array) for own in records.array_records.values() for array in own.values()]
        words += "".join(str(dict(record)) for record in records.config_records.values())
        assert not records.metric_records
    assert len(plain) == len(arrays) == 6  # of each client its masked numbers, and no other array
    numbers = {f"client-{message.metadata.src_node_id - 100:02d}": array.numpy() for message, array in arrays}
    for client, (trained, vector) in plain.items():
        found = numbers[client]
        assert found.dtype == np.uint32
        assert np.mean(found == vector) < 1e-2
        counts = np.bincount(found.view(np.uint8), minlength=256)
        expected = counts.sum() / 256
        assert float(((counts - expected) ** 2 / expected).sum()) < 255 + 8 * np.sqrt(2 * 255)
        for tensor in trained.values():
            values = tensor.numpy().reshape(-1)[:4].astype(np.float32).tobytes()
            assert values not in found.tobytes()
            assert values.hex() not in words
    assert len(words) < 60_000  # keys, shares and what is said in the clear


def lost(nodes: InProcess, node: int, kind: str, times: int = 99) -> None:
    """A node that fails at a step."""
    left = [times]

    def answer(message: Message, context: Context) -> Message:
        if message.metadata.message_type == kind and left[0]:
            left[0] -= 1
            raise RuntimeError("out of memory")
        return nodes.app(message, context)

    nodes.changed[node] = answer


@pytest.mark.parametrize("step", [CARDS, SEALED, MASKED])
def test_a_node_that_fails_at_a_step_is_left_out_and_the_round_counts(secure: Configure, tmp_path: Path, step: str):
    nodes = grid()
    lost(nodes, 105, step)
    serve(nodes, secure("federation.rounds=2"), replace(QUICK, out=str(tmp_path / "run")))
    for line in lines(tmp_path / "run"):
        assert line["dropped"].keys() == {"client-05"}
        assert "out of memory" in line["dropped"]["client-05"] or "failed" in line["dropped"]["client-05"]
        assert line["train/loss"] > 0


def test_a_node_that_fails_to_help_is_in_the_sum(secure: Configure, tmp_path: Path):
    nodes, whole = grid(), grid()
    lost(nodes, 103, SHARES)
    for which, name in ((nodes, "one"), (whole, "other")):
        serve(which, secure("federation.rounds=1"), replace(QUICK, out=str(tmp_path / name)))
    assert apart(state(tmp_path / "one").adapter, state(tmp_path / "other").adapter) == 0


def test_a_round_of_too_few_is_repeated_and_then_stops_the_run(
    secure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Of six nodes five must come to the end. Two fail once: the second attempt counts. Two fail always: nothing does,
    and when they are back the run goes on."""
    nodes = grid()
    for node in (104, 105):
        lost(nodes, node, MASKED, times=1)
    with caplog.at_level(logging.WARNING, logger="polyrank"):
        serve(nodes, secure("federation.rounds=1"), replace(QUICK, out=str(tmp_path / "once")))
    assert "round 1 is repeated: 4 clients sent their masked sums, expected 5" in caplog.text
    assert lines(tmp_path / "once")[0]["dropped"] == {}
    for node in (104, 105):
        lost(nodes, node, MASKED)
    settings = replace(QUICK, out=str(tmp_path / "always"))
    with pytest.raises(SecureError, match=r"4 clients sent their masked sums, expected 5 .*nothing was revealed"):
        serve(nodes, secure("federation.rounds=1"), settings)
    nodes.changed.clear()
    serve(nodes, secure("federation.rounds=1"), replace(settings, resume=True))
    assert apart(state(tmp_path / "always").adapter, state(tmp_path / "once").adapter) == 0


def _numbers(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[RecordDict], None]:
    def changed(content: RecordDict) -> None:
        found = content.array_records[NUMBERS][NUMBERS].numpy()
        content[NUMBERS] = ArrayRecord({NUMBERS: Array(change(found))})

    return changed


def _said(**words: str) -> Callable[[RecordDict], None]:
    def changed(content: RecordDict) -> None:
        content[STEP] = ConfigRecord({**content.config_records[STEP], **words})

    return changed


@pytest.mark.parametrize(
    ("step", "change", "why"),
    [
        (MASKED, _numbers(lambda found: found[:-1]), "of shape ("),
        (MASKED, _numbers(lambda found: found.astype(np.float32)), "float32"),
        (MASKED, _numbers(lambda found: found.astype(np.uint64)), "bytes"),
        (CARDS, _said(token="x"), "another attempt"),
        (CARDS, _said(secure="{}"), "lacks"),
        (CARDS, _said(secure='{"masks": "zz", "sealing": "", "seed": ""}'), "pattern"),
        (SEALED, _said(secure='{"sealed": {}}'), "dropped out"),
        (SEALED, _said(secure='{"sealed": 3}'), "mapping|object|dictionary"),
    ],
)
def test_a_reply_that_is_none_costs_its_client_the_round(
    secure: Configure, tmp_path: Path, step: str, change: Callable[[RecordDict], None], why: str
):
    nodes = grid()

    def answer(message: Message, context: Context) -> Message:
        reply = nodes.app(message, context)
        if message.metadata.message_type == step:
            change(reply.content)
        return reply

    nodes.changed[105] = answer
    serve(nodes, secure("federation.rounds=1"), replace(QUICK, out=str(tmp_path / "run")))
    (line,) = lines(tmp_path / "run")
    assert line["dropped"].keys() == {"client-05"}
    assert [word for word in why.split("|") if word in line["dropped"]["client-05"]], line["dropped"]


def test_a_node_whose_memory_is_gone_says_so(secure: Configure, tmp_path: Path):
    """It restarts between two steps: for the others the round goes on."""
    nodes = grid()

    def answer(message: Message, context: Context) -> Message:
        if message.metadata.message_type == MASKED:
            context.state = RecordDict()
        return nodes.app(message, context)

    nodes.changed[105] = answer
    serve(nodes, secure("federation.rounds=1"), replace(QUICK, out=str(tmp_path / "run")))
    assert "has no secrets of the step before" in lines(tmp_path / "run")[0]["dropped"]["client-05"]


def test_what_is_out_of_range_is_not_sent_and_the_server_is_told_which_tensor_and_no_value(
    secure: Configure, tmp_path: Path
):
    with pytest.raises(SecureError, match=r"0 clients .*client-00: .*holds a value beyond .*nothing was sent"):
        serve(grid(), secure("secure.clip=0.001"), replace(QUICK, out=str(tmp_path / "run")))


def test_a_node_may_refuse_to_train_in_the_clear(secure: Configure, tmp_path: Path):
    nodes = grid(secure=True)
    open_to_all = secure("federation.rounds=1", "secure.enabled=false")
    with pytest.raises(FlowerError, match="sends what it trained under masks alone"):
        serve(nodes, open_to_all, replace(QUICK, out=str(tmp_path / "plain")))
    serve(nodes, secure("federation.rounds=1"), replace(QUICK, out=str(tmp_path / "secure")))
    assert lines(tmp_path / "secure")[0]["dropped"] == {}


def test_several_clients_on_a_node_are_refused(secure: Configure, tmp_path: Path):
    nodes = InProcess(make_client_app(), {100 + i: {"partition-id": i, "num-partitions": 3} for i in range(3)})
    with pytest.raises(ConfigError, match="node 100 serves 2 clients, and each needs a node of its own"):
        serve(nodes, secure(), replace(QUICK, out=str(tmp_path / "run")))


def test_shares_are_told_once(secure: Configure, tmp_path: Path):
    """A server that asks a second time, for other survivors, gets none: it could open one client's masks."""
    nodes, second = grid(), []

    def answer(message: Message, context: Context) -> Message:
        reply = nodes.app(message, context)
        if message.metadata.message_type == SHARES:
            with pytest.raises(FlowerError, match="no secrets of the step before"):
                nodes.app(message, context)
            second.append(message)
        return reply

    nodes.changed[100] = answer
    serve(nodes, secure("federation.rounds=1"), replace(QUICK, out=str(tmp_path / "run")))
    assert second


def test_a_narrow_wire_carries_the_adapter_down_and_whole_numbers_up(secure: Configure, tmp_path: Path):
    found: dict[str, Mapping[str, Any]] = {}
    for wire in ("float32", "bfloat16"):
        serve(grid(), secure("federation.rounds=1"), replace(QUICK, out=str(tmp_path / wire), wire=wire))
        (found[wire],) = lines(tmp_path / wire)
    assert found["bfloat16"]["bytes/down"] < found["float32"]["bytes/down"]
    assert found["bfloat16"]["bytes/up"] == pytest.approx(found["float32"]["bytes/up"], rel=1e-3)
    assert apart(state(tmp_path / "bfloat16").adapter, state(tmp_path / "float32").adapter) < 0.05
