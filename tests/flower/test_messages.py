"""Work and outcomes as Flower's records: exact on the way, and read or refused, whatever a node says."""

from __future__ import annotations

import json
import math
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from hypothesis import example, given
from hypothesis import strategies as st

from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import FlowerError
from polyrank.flower.messages import OUTCOME, TRAINED, Asked, answer, question, read_answer, read_question
from polyrank.flower.records import to_record
from polyrank.training.work import Outcome, Penalty, Work
from tests.flower.test_words import JSON, SCALAR, tried
from tests.models import TASK

WORK = Work("north", 1, Adapter({"q": Factors(torch.zeros(2, 3), torch.zeros(4, 2))}, {"head": torch.zeros(2)}), 0)
ASKED = Asked(WORK, "t", "", "float32")
NUMBERS = {"loss": 0.5, "steps": 1, "seconds": 2.0, "weight": 3.0}


def replied(**numbers: Any) -> RecordDict:
    """A reply with some of its numbers changed; ``own/`` are scores of its own."""
    records = answer(outcome(WORK), ASKED)
    header = json.loads(str(records.config_records[OUTCOME][OUTCOME]))
    for name, value in numbers.items():
        where = header["scores"] if name.startswith("own/") else header if name in header else header["metrics"]
        where[name.removeprefix("own/")] = value
    try:
        text = json.dumps(header)
    except ValueError:  # more digits than Python writes
        text = "9" * 5001
    records[OUTCOME] = ConfigRecord({**records.config_records[OUTCOME], OUTCOME: text})
    return records


def outcome(work: Work) -> Outcome:
    trained = work.adapter.parts(work.trains)
    return Outcome(work.client, trained, 3.0, {"loss": 0.5, "steps": 1}, seconds=2.0)


def read(records: RecordDict) -> Outcome:
    return read_answer(records, ASKED, 3, TASK.metrics)


@given(st.dictionaries(st.sampled_from([*NUMBERS, "own/accuracy", "own/loss"]), JSON | SCALAR))
def test_a_replys_numbers_are_read_or_refused(numbers: dict[str, Any]):
    found = tried(lambda: read(replied(**numbers)))
    if found is not None:
        said = [found.weight, found.seconds, *found.metrics.values(), *found.scores.values()]
        assert all(value is not None and math.isfinite(value) for value in said)


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ({"seconds": -1.0}, "seconds: Input should be greater than or equal to 0"),
        ({"loss": -0.1}, "its loss is -0.1, expected a finite number of 0 or more"),
        ({"loss": float("nan")}, "its loss is nan"),
        ({"own/accuracy": 1.5}, "its own/accuracy is 1.5, expected a number from 0 to 1"),
        ({"own/macro_f1": float("nan")}, "its own/macro_f1 is nan"),
        ({"steps": 10**400}, "its steps is beyond any float"),
        ({"steps": True}, "metrics.steps"),
        ({"weight": 10**400}, "weight"),
    ],
)
def test_a_number_that_nobody_can_have_measured_is_refused(numbers: dict[str, float], reason: str):
    read(replied(**{"own/accuracy": 1.0, "own/loss": 0.0}))
    with pytest.raises(FlowerError, match=reason):
        read(replied(**numbers))


@given(st.text() | JSON.map(json.dumps))
@example("[" * 100_000)
@example('{"client": ' * 900 + "1" + "}" * 900)
@example('{"client": ' + "9" * 100_000 + "}")
@example('{"\\ud800": 1}')
def test_a_reply_is_read_or_refused(text: str):
    records = answer(outcome(WORK), ASKED)
    records[OUTCOME] = ConfigRecord({**records.config_records[OUTCOME], OUTCOME: text})
    assert tried(lambda: read(records)) is None
    records = question(ASKED)
    records["work"] = ConfigRecord({**records.config_records["work"], "work": text})
    assert tried(lambda: read_question(records)) is None


def test_nothing_is_made_of_tensors_before_all_else_is_right():
    """A reply of 4 MB that is another client's costs no 4 MB to refuse, nor one that announces 4 PB."""
    adapter = Adapter({"q": Factors(torch.zeros(1, 10**6), torch.zeros(2, 1))})
    asked = Asked(Work("north", 1, adapter, 0), "t", "", "float32")
    for changed in ({"client": "south"}, {"weight": 1.0}, {"trained": {"q.a": [2**39, 2**39], "q.b": [2, 1]}}):
        records = answer(outcome(asked.work), asked)
        header = json.loads(str(records.config_records[OUTCOME][OUTCOME])) | changed
        records[OUTCOME] = ConfigRecord({"token": "t", OUTCOME: json.dumps(header)})
        tracemalloc.start()
        with pytest.raises(FlowerError):
            read_answer(records, asked, 3, TASK.metrics)
        assert tracemalloc.get_traced_memory()[1] < 2**20
        tracemalloc.stop()


@pytest.mark.parametrize("wire", ["float32", "bfloat16"])
def test_work_and_outcome_come_back_whatever_tensors_are_called(wire: str):
    """A base change travels exactly, in a run of narrow tensors too."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw)

    adapter = Adapter(
        {"a/b%2F": Factors(normal(2, 3), normal(4, 2), 0.1)}, {"head/w": normal(2), "head%2Fw": normal(3)}
    )
    change = Adapter({"a/b%2F": Factors(normal(5, 3), normal(4, 5), 1 / 3)})
    work = Work("n/o", 7, adapter, 2**70, change, frozenset({"b", "head"}), Penalty(1, 0.5))
    asked = Asked(work, "t", "[model]", wire)
    found = read_question(question(asked))
    assert (found.token, found.config, found.wire) == ("t", "[model]", wire)
    narrow = adapter.map(lambda tensor: tensor.to(getattr(torch, wire)).float())
    assert found.work.adapter.identical(narrow)
    assert found.work.base_change is not None
    assert found.work.base_change.identical(change)
    assert (found.work.client, found.work.round, found.work.seed) == ("n/o", 7, 2**70)
    assert (found.work.trains, found.work.penalty, found.work.scored) == (work.trains, work.penalty, False)
    read_back = read_answer(answer(outcome(work), found), asked, 3, TASK.metrics)
    assert read_back.trained is not None
    parts = narrow.parts(work.trains)
    assert list(read_back.trained) == list(parts) == ["a/b%2F.b", "head/w", "head%2Fw"]
    assert all(torch.equal(read_back.trained[name], tensor) for name, tensor in parts.items())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda records: records.pop("work"), "the message has no work: have the server and the node the same version"),
        (lambda records: records.pop("adapter"), "the work has no 'adapter/"),
        (lambda records: records["adapter"].pop("head"), "the work has no 'adapter/head'"),
        (
            lambda records: records["adapter"].update(more=records["adapter"]["head"]),
            r"the work has unknown tensors: \['adapter/more'\]",
        ),
        (lambda records: records.__setitem__("adapter", to_record({"q.a": torch.zeros(1, 3)}, "float32")), "shape"),
    ],
)
def test_work_that_is_not_whole_is_refused(change: Callable[[RecordDict], object], reason: str):
    records = question(ASKED)
    change(records)
    with pytest.raises(FlowerError, match=reason):
        read_question(records)


def test_a_reply_of_another_version_is_named():
    with pytest.raises(FlowerError, match="the message has no outcome: have the server and the node the same version"):
        read(RecordDict({TRAINED: ArrayRecord(), "reply": ConfigRecord({"token": "t"})}))
