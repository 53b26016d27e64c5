"""Flower's side: replies, questions and arrays, as records that a hostile node or server made."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from benchmarks.fuzz import corpus, mutate
from benchmarks.fuzz.mutate import Files
from benchmarks.fuzz.targets import Target, expect
from polyrank.core.errors import PolyRankError
from polyrank.flower import facts, messages, peft_arrays
from polyrank.flower.messages import Asked
from polyrank.tasks.classification import Classification

ABOUT = "records.json"
METRICS = Classification().metrics


class RefusedByFlowerError(Exception):
    """Flower's own records do not hold what was said, so that it could not have come."""


@cache
def _asked() -> Asked:
    return Asked(corpus.work(), "t", corpus.config_file().decode(), "float32")


@cache
def _valid(name: str) -> dict[str, bytes]:
    made = {
        "reply": lambda: messages.answer(corpus.outcome(), _asked()),
        "question": lambda: messages.question(_asked()),
        "arrays": lambda: RecordDict({"arrays": peft_arrays.to_arrays(corpus.adapter())}),
        "facts": lambda: RecordDict({facts.RECORD: ConfigRecord({"about": json.dumps(_node())})}),
    }[name]()
    about, pieces = corpus.arrays_of(made)
    return {ABOUT: json.dumps(about).encode(), **pieces}


def _node() -> dict[str, Any]:  # Any: JSON values
    said = {"client": "north", "place": None, "step": None, "rank": 4, "shapes": {"q": [8, 8]}, "base": {"x": "y"}}
    return {**said, "clients": [{"examples": 3, "labels": [1, 2], "left_out": {"long": 1}}]}


def _made(name: str) -> Any:  # Any: a function that makes an input
    def make(random: Random) -> Files:
        found: Files = dict(_valid(name))
        chosen = random.choice(sorted(found))
        content = found[chosen if random.random() < 0.5 else ABOUT]
        assert isinstance(content, bytes)
        if content is not found[ABOUT]:
            return {**found, chosen: mutate.raw(random, content)}
        about = json.loads(content)
        inner = [record for record in about["configs"].values() for key in record if record[key][:1] == "{"]
        if inner and random.random() < 0.7:  # the header in the record: JSON in JSON
            record = random.choice(inner)
            key = random.choice([key for key in record if record[key][:1] == "{"])
            record[key] = mutate.json_bytes(random, record[key].encode()).decode("utf-8", "replace")
            return {**found, ABOUT: json.dumps(about).encode()}
        return {**found, ABOUT: mutate.written(mutate.json_value(random, about))}

    return make


def _records(folder: Path) -> RecordDict:
    """What Flower would hand over."""
    try:
        about = json.loads((folder / ABOUT).read_bytes())
        found = RecordDict()
        for name, record in about["configs"].items():
            found[name] = ConfigRecord(record)
        for name, record in about["metrics"].items():
            found[name] = MetricRecord(record)
        for name, record in about["arrays"].items():
            arrays = {}
            for key, (dtype, shape, kind, file) in record.items():
                arrays[key] = Array(dtype, tuple(shape), kind, (folder / file).read_bytes())
            found[name] = ArrayRecord(arrays)
    except Exception as error:
        raise RefusedByFlowerError(str(error)[:100]) from None
    return found


def _read_reply(folder: Path, _out: Path) -> None:
    found = messages.read_answer(_records(folder), _asked(), 12, METRICS)
    expect(found.client == "ann" and found.weight == 12, f"{found.client} {found.weight}")
    for name, tensor in (found.trained or {}).items():
        expect(bool(torch.isfinite(tensor).all()), f"{name} is not finite")


def _read_question(folder: Path, _out: Path) -> None:
    messages.read_question(_records(folder))


def _read_arrays(folder: Path, _out: Path) -> None:
    records = _records(folder)
    found = peft_arrays.read_arrays(records.array_records.get("arrays", ArrayRecord()), corpus.adapter())
    expect(found.first_not_finite() is None, "not finite")


def _read_facts(folder: Path, _out: Path) -> None:
    said = facts.read_answer(_records(folder))
    expect((said.client is None) != (said.place is None), "neither client nor place")


REFUSES = (PolyRankError, RefusedByFlowerError)
FLOWER: dict[str, Target] = {
    "Flower reply": Target(_made("reply"), _read_reply, refuses=REFUSES),
    "Flower question": Target(_made("question"), _read_question, refuses=REFUSES),
    "Flower arrays": Target(_made("arrays"), _read_arrays, refuses=REFUSES),
    "Flower facts": Target(_made("facts"), _read_facts, refuses=REFUSES),
}
