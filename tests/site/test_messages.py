from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
from contextlib import suppress
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from polyrank.core import codec, errors
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import AdapterError, PolyRankError, SiteError
from polyrank.core.state import ClientUpdate
from polyrank.site import messages
from polyrank.site.protocol import Deadline, receive
from polyrank.site.worker import Facts, Task
from polyrank.training.work import Penalty


def adapter(dtype: torch.dtype, seed: int = 0) -> Adapter:
    """Ranks 1 and 3, a B that is a view, a scalar and an empty tensor; two names for one memory."""
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(4, 3, generator=draw).to(dtype)
    modules = {
        "a/b.c": Factors(torch.randn(1, 5, generator=draw).to(dtype), values[:, :1], 0.1),
        "ü": Factors(torch.randn(3, 2, generator=draw).to(dtype), values, 1 / 3),
    }
    return Adapter(
        modules, {"head": torch.tensor(2.5, dtype=dtype), "none": torch.zeros(0, 7, dtype=dtype), "twin": values}
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_tasks_and_updates_come_back_to_the_bit(dtype: torch.dtype):
    task = Task("ann", 7, adapter(dtype), 2**70, adapter(dtype, 1), frozenset({"a"}), Penalty(2, 1e-3))
    header, body = messages.train_request(task)
    request = messages.read_request(header)
    assert isinstance(request, messages.TrainRequest)
    found = messages.task_of(request, body)
    assert found.adapter.identical(task.adapter)
    assert found.base_change is not None
    assert found.base_change.identical(adapter(dtype, 1))
    assert (found.client, found.round, found.seed, found.trains, found.penalty) == (
        "ann", 7, 2**70, frozenset({"a"}), Penalty(2, 1e-3)
    )  # fmt: skip

    update = ClientUpdate("ann", adapter(dtype), 12.5, {"loss": 0.1 + 0.2, "steps": 3})
    again = messages.read_update(*messages.update_reply(update))
    assert again.adapter.identical(update.adapter)
    assert (again.client, again.weight, again.metrics) == ("ann", 12.5, {"loss": 0.1 + 0.2, "steps": 3})


def test_facts_and_scores_come_back():
    facts, scores = (
        Facts(3, (1, 2), {"q": (4, 5)}, ("a", "b"), {"vocabulary": "ab12"}),
        {"loss": 0.1, "accuracy": 0.2, "macro_f1": 1 / 3},
    )
    assert messages.read_facts(*messages.facts_reply(facts)) == facts
    assert messages.read_scores(*messages.scores_reply(scores)) == scores


@pytest.mark.parametrize("kind", [AdapterError, errors.ConfigError, errors.WorkerError, SiteError])
def test_an_error_is_raised_again_as_what_it_was(kind: type[PolyRankError]):
    header, _ = messages.error_reply(kind("found 3"), "x")
    with pytest.raises(kind, match=r"^found 3$"):
        messages.raise_error(header)


@pytest.mark.parametrize("kind", ["annotations", "Iterable", "difflib", "nothing", "__doc__"])
def test_no_other_name_of_the_errors_is_ever_raised(kind: str):
    with pytest.raises(SiteError, match=r"^boo$"):
        messages.raise_error({"error": {"kind": kind, "message": "boo"}})


def test_tensors_that_were_not_described_are_refused():
    header, body = messages.train_request(Task("ann", 0, adapter(torch.float32), 0))
    del header["adapter"]["scales"]["ü"]
    request = messages.read_request(header)
    assert isinstance(request, messages.TrainRequest)
    with pytest.raises(AdapterError, match=r"unknown: \['adapter/ü\.a'"):
        messages.task_of(request, body)


def test_a_reply_of_another_kind_is_said():
    with pytest.raises(SiteError, match="replied scores; expected update"):
        messages.read_update(*messages.scores_reply({"loss": 0.0}))


def test_a_client_of_a_daemon_loads_no_transformers():
    """It starts anew for every message of a deployment."""
    code = "import sys, polyrank.site.client; sys.exit(any(n in sys.modules for n in ('transformers', 'peft', 'flwr')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
HEADER = b'{"x":{"dtype":"F4","shape":[1000000000000000],"data_offsets":[0,0]}}'
LAYOUT = {"scales": {"q": 1.0}, "dense": []}
WORDS: dict[str, tuple[str, dict[str, Any]]] = {
    "facts": ("facts", {"examples": 3, "labels": [1, 2], "parameters": {"q": [4, 5]}, "names": ["a", "b"]}),
    "update": ("update", {"client": "ann", "weight": 1.0, "metrics": {"loss": 0.5}, "adapter": LAYOUT}),
    "scores": ("scores", {"loss": 0.5, "accuracy": 0.5, "macro_f1": 0.5}),
    "error": ("error", {"kind": "SiteError", "message": "boo"}),
}
REQUEST = {
    **{"kind": "train", "client": "ann", "round": 1, "seed": 2, "trains": ["a"], "adapter": LAYOUT},
    **{"base_change": None, "penalty": {"kept": 1, "weight": 0.5}},
}


def read_anything(header: dict[str, Any], body: bytes = b"") -> None:
    """In both directions; whoever reads gives a value or an error of ours."""
    for read in (messages.read_facts, messages.read_update, messages.read_scores):
        with suppress(PolyRankError):
            read(header, body)
    with suppress(PolyRankError):
        messages.raise_error(header)
    with suppress(PolyRankError):
        request = messages.read_request(header)
        if isinstance(request, messages.TrainRequest):
            messages.task_of(request, body)


@given(st.dictionaries(st.sampled_from([*WORDS, "kind"]) | st.text(max_size=5), JSON), st.binary(max_size=100))
@example({"facts": {"examples": float("nan")}}, b"")
@example({"error": {"kind": "\ud800", "message": "x"}}, b"")
def test_any_json_is_read_or_refused(header: dict[str, Any], body: bytes):
    read_anything(header, body)


@pytest.mark.parametrize("depth", [100, 500, 900])
def test_json_in_json_is_read_or_refused(depth: int):
    deep = json.loads("[" * depth + "]" * depth)
    read_anything(dict.fromkeys(WORDS, deep))
    read_anything({**REQUEST, "penalty": deep})


@given(st.sampled_from(sorted(WORDS)), st.data())
def test_a_message_with_one_part_changed_is_read_or_refused(name: str, data: st.DataObject):
    key, said = WORDS[name]
    part = data.draw(st.sampled_from(sorted(said)))
    read_anything({key: {**said, part: data.draw(JSON)}})


@given(st.sampled_from(sorted(REQUEST)), JSON)
def test_a_request_with_one_part_changed_is_read_or_refused(part: str, value: Any):
    read_anything({**REQUEST, part: value})


@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda more: b"PRS1\0\0\0\x02" + bytes(8) + b"{}" + more))
@example(struct.pack(">4sIQ", b"PRS1", 8 * 2**20, 8 * 2**30))
@example(struct.pack(">4sIQ", b"PRS1", 2**32 - 1, 0))
@example(struct.pack(">4sIQ", b"PRS1", 200_000, 0) + b"[" * 200_000)
@example(struct.pack(">4sIQ", b"PRS1", 9, 0) + b'{"a":NaN}')
def test_any_bytes_are_a_frame_or_refused(data: bytes):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        with suppress(SiteError):
            receive(ours, Deadline(5))


@given(st.binary(max_size=300) | st.binary(max_size=200).map(lambda more: len(more).to_bytes(8, "little") + more))
@example(b"\x02" + bytes(7) + b"{}")
@example(len(HEADER).to_bytes(8, "little") + HEADER)
def test_any_bytes_are_tensors_or_refused(data: bytes):
    with suppress(AdapterError):
        codec.from_bytes(data)


@pytest.mark.parametrize(
    ("name", "changed", "reason"),
    [
        ("facts", {"labels": [4, -1]}, "labels.1"),
        ("facts", {"labels": [1, 1]}, "make no sense"),
        ("facts", {"examples": True}, "examples: Input should be a valid integer"),
        ("facts", {"names": ["a"]}, "make no sense: 1 labels, and 2 counts"),
        ("scores", {"accuracy": "high"}, "scores.accuracy: Input should be a valid number"),
        ("update", {"weight": float("inf")}, "weight"),
        ("update", {"weight": -1.0}, "weight"),
    ],
)
def test_what_makes_no_sense_is_refused(name: str, changed: dict[str, Any], reason: str):
    read = {"facts": messages.read_facts, "update": messages.read_update, "scores": messages.read_scores}[name]
    key, said = WORDS[name]
    with pytest.raises(SiteError, match=reason):
        read({key: {**said, **changed}}, b"")


def test_a_fault_is_told_without_its_text():
    """Whoever asked may pass it on, and a library's error may quote a text."""
    header, _ = messages.error_reply(ValueError("Ann Lee has a fever"), "training ann")
    assert header["error"]["message"].startswith("the site failed at training ann: ValueError (")
    assert "fever" not in str(header)
