from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from polyrank.core import codec, errors
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import AdapterError, PolyRankError, SiteError
from polyrank.federation.participant import Facts
from polyrank.site import requests
from polyrank.site.protocol import Deadline, receive
from polyrank.site.requests import Asked, framed, read_reply, read_request
from polyrank.training.work import Moved, Outcome, Penalty, Work


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
def test_work_and_its_outcome_come_back_to_the_bit(dtype: torch.dtype):
    work = Work("ann", 7, adapter(dtype), 2**70, adapter(dtype, 1), frozenset({"a"}), Penalty(2, 1e-3), scored=True)
    found = read_request(*framed(work))
    assert isinstance(found, Work)
    assert found.adapter.identical(work.adapter)
    assert found.base_change is not None
    assert found.base_change.identical(adapter(dtype, 1))
    assert (found.client, found.round, found.seed, found.trains, found.penalty, found.scored) == (
        "ann", 7, 2**70, frozenset({"a"}), Penalty(2, 1e-3), True
    )  # fmt: skip

    trained = dict(adapter(dtype).tensors())  # names with a slash among them
    metrics, scores = {"loss": 0.1 + 0.2, "steps": 3}, {"accuracy": 1 / 3}
    outcome = Outcome("ann", trained, 12.5, metrics, scores=scores, seconds=0.7, moved=Moved(3, 4))
    again = read_reply(*framed(outcome))
    assert isinstance(again, Outcome)
    assert again.trained is not None
    assert list(again.trained) == list(trained)
    assert all(torch.equal(again.trained[name], tensor) for name, tensor in trained.items())
    assert {tensor.dtype for tensor in again.trained.values()} == {dtype}
    assert (again.client, again.weight, again.metrics, again.scores) == ("ann", 12.5, metrics, scores)
    assert (again.seconds, again.moved, again.problem) == (0.7, Moved(3, 4), "")


def test_facts_and_what_is_asked_come_back():
    facts = Facts(3, (1, 2), {"q": (4, 5)}, ("a", "b"), {"vocabulary": "ab12"}, "Classification()", {"too long": 4})
    assert read_reply(*framed(facts)) == facts
    assert read_request(*framed(Asked("ann"))) == Asked("ann")


def test_facts_of_data_without_labels_come_back():
    facts = Facts(3, (), {"q": (4, 5)})
    assert read_reply(*framed(facts)) == facts


def test_why_nothing_was_trained_comes_back():
    found = read_reply(*framed(Outcome("ann", problem="no example today")))
    assert isinstance(found, Outcome)
    assert (found.trained, found.problem, found.seconds) == (None, "no example today", None)


@pytest.mark.parametrize("kind", [AdapterError, errors.CodecError, errors.ConfigError, errors.WorkerError, SiteError])
def test_an_error_is_raised_again_as_what_it_was(kind: type[PolyRankError]):
    with pytest.raises(kind, match=r"^found 3$") as caught:
        read_reply(*framed(requests.failed(kind("found 3"), "x")))
    assert type(caught.value) is kind


@pytest.mark.parametrize("kind", ["annotations", "Iterable", "difflib", "nothing", "__doc__", "named"])
def test_no_other_name_of_the_errors_is_ever_raised(kind: str):
    with pytest.raises(SiteError, match=r"^boo$"):
        read_reply({"error": {"error": kind, "message": "boo"}}, b"")


def test_tensors_that_are_not_those_of_the_header_are_refused():
    header, body = framed(Work("ann", 0, adapter(torch.float32), 0))
    modules = header["work"]["adapter"]["modules"]
    of_u = modules.pop("ü")
    with pytest.raises(SiteError, match=r"request work cannot be read: .*adapter/ü\.a, adapter/ü\.b is unknown"):
        read_request(header, body)
    modules["ü"] = of_u
    modules["v"] = [4, 3, 2, 1.0]
    with pytest.raises(SiteError, match=r"adapter/v\.a is missing"):
        read_request(header, body)
    del modules["v"]
    modules["ü"] = [4, 2, 2, 1.0]
    with pytest.raises(SiteError, match=r"adapter/ü\.a has shape \(3, 2\), and the header says \(2, 2\)"):
        read_request(header, body)


def test_what_belongs_to_the_other_side_is_refused():
    """A site is asked and answers; it is not told an outcome, nor asks."""
    with pytest.raises(SiteError, match="request is outcome; expected one of"):
        read_request(*framed(Outcome("ann")))
    with pytest.raises(SiteError, match=r"replied facts\?: is it of this version"):
        read_reply(*framed(Asked("ann")))


@pytest.mark.parametrize("header", [{}, {"facts?": {"client": "a"}, "work": {}}, {"x" * 10**6: 1}])
def test_a_message_that_is_no_one_thing_is_refused_in_a_short_line(header: dict[str, Any]):
    for read in (read_request, read_reply):
        with pytest.raises(SiteError, match="expected one of") as caught:
            read(header, b"")
        assert len(str(caught.value)) < 300


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
HEADER = b'{"x":{"dtype":"F4","shape":[1000000000000000],"data_offsets":[0,0]}}'
LAYOUT = {"modules": {}, "dense": {}}
WORDS: dict[str, dict[str, Any]] = {
    "facts?": {"client": "ann"},
    "work": {
        **{"client": "ann", "round": 1, "seed": 2, "trains": ["a"], "adapter": LAYOUT, "scored": False, "guard": None},
        **{"base_change": None, "chooses": 4, "penalty": {"kept": 1, "weight": 0.5}},
        **{"proximal": {"weight": 0.5, "parts": ["a", "head"]}, "lr_share": 0.5},
    },
    "facts": {"examples": 3, "labels": [1, 2], "parameters": {"q": [4, 5]}, "names": ["a", "b"], "base": {}}
    | {"task": "Classification()", "left_out": {}},
    "outcome": {
        **{"client": "ann", "trained": {}, "weight": 1.0, "metrics": {"loss": 0.5}, "problem": "", "seconds": 0.1},
        **{"scores": {"loss": 0.5, "accuracy": 0.5, "macro_f1": 0.5}, "moved": {"down": 1, "up": 2}},
        "indices": {"q": [0, 2]},
    },
    "error": {"error": "SiteError", "message": "boo"},
}
"""Each of them good."""
REQUESTS = ("facts?", "work")


def refusal(read: Callable[[], object]) -> str:
    """What is said of it; nothing where it is read."""
    try:
        read()
    except PolyRankError as error:
        return str(error)
    return ""


def read_anything(header: dict[str, Any], body: bytes = b"") -> None:
    """In both directions; whoever reads gives a value or an error of ours, in a line that is short enough to read."""
    for read in (read_request, read_reply):
        assert len(refusal(partial(read, header, body))) < 1000 or "error" in header


@pytest.mark.parametrize("kind", WORDS)
def test_the_words_are_good_ones(kind: str):
    read = read_request if kind in REQUESTS else read_reply
    if kind == "error":
        with pytest.raises(SiteError, match=r"^boo$"):
            read({kind: WORDS[kind]}, b"")
    else:
        read({kind: WORDS[kind]}, b"")


@given(st.dictionaries(st.sampled_from([*WORDS]) | st.text(max_size=5), JSON, max_size=2), st.binary(max_size=100))
@example({"facts": {"examples": float("nan")}}, b"")
@example({"error": {"error": "\ud800", "message": "x"}}, b"")
@example({"work": {"\ud800": 1}}, b"")
def test_any_json_is_read_or_refused(header: dict[str, Any], body: bytes):
    read_anything(header, body)


@pytest.mark.parametrize("depth", [100, 500, 900])
@pytest.mark.parametrize("kind", WORDS)
def test_json_in_json_is_read_or_refused(kind: str, depth: int):
    deep = json.loads("[" * depth + "]" * depth)
    nested = json.loads('{"a":' * depth + "1" + "}" * depth)
    for value in (deep, nested):
        read_anything({kind: value})
        for part in WORDS[kind]:
            read_anything({kind: {**WORDS[kind], part: value}})


@given(st.sampled_from(sorted(WORDS)), st.data())
def test_a_message_with_one_part_changed_is_read_or_refused(name: str, data: st.DataObject):
    said = WORDS[name]
    part = data.draw(st.sampled_from(sorted(said)))
    read_anything({name: {**said, part: data.draw(JSON)}})


@given(st.sampled_from(["adapter", "base_change", "trained"]), JSON | st.dictionaries(st.text(), st.lists(JSON)))
@example("adapter", {"q": [10**13, 1, 1, 1.0]})
@example("adapter", {"q": [1, 2**39, 2**39, 1.0]})
@example("adapter", {"q": [0, 0, 0, float("nan")]})
@example("adapter", {"q": [0, 0, 0, 10**400]})
@example("trained", {"q": [2**39, 2**39, 2**39]})
def test_tensors_that_are_announced_are_there_or_refused(part: str, modules: Any):
    """Whatever size they are said to have, nothing is made of it before they are there."""
    kind, layout = ("outcome", modules) if part == "trained" else ("work", {"modules": modules, "dense": {}})
    header = {kind: {**WORDS[kind], part: layout}}
    read_anything(header)
    read_anything(header, codec.to_bytes({"adapter/q.a": torch.zeros(1, 1), "adapter/q.b": torch.zeros(1, 1)}))


@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda more: b"PRS2\0\0\0\x02" + bytes(8) + b"{}" + more))
@example(struct.pack(">4sIQ", b"PRS2", 8 * 2**20, 8 * 2**30))
@example(struct.pack(">4sIQ", b"PRS2", 2**32 - 1, 0))
@example(struct.pack(">4sIQ", b"PRS2", 200_000, 0) + b"[" * 200_000)
@example(struct.pack(">4sIQ", b"PRS2", 9, 0) + b'{"a":NaN}')
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
    ("kind", "changed", "reason"),
    [
        ("facts", {"labels": [4, -1]}, "labels.1"),
        ("facts", {"labels": [1, 1]}, "make no sense"),
        ("facts", {"examples": True}, "examples: Input should be a valid integer"),
        ("facts", {"names": ["a"]}, "make no sense: 1 labels, and 2 counts"),
        ("facts", {"names": [], "labels": [3]}, "make no sense: 0 labels, and 1 counts"),
        ("facts", {"parameters": {"q": [4, -5]}}, "parameters.q.1"),
        ("outcome", {"scores": {"accuracy": "high"}}, "scores.accuracy: Input should be a valid number"),
        ("outcome", {"weight": float("inf")}, "weight"),
        ("outcome", {"weight": float("nan")}, "weight"),
        ("outcome", {"weight": -1.0}, "weight"),
        ("outcome", {"weight": 10**400}, "weight"),
        ("outcome", {"seconds": float("nan")}, "seconds"),
        ("outcome", {"seconds": -1.0}, "seconds"),
        ("outcome", {"metrics": {"loss": None}}, "metrics.loss"),
        ("outcome", {"moved": {"down": -1, "up": 0}}, "moved.down"),
        ("outcome", {"moved": {"down": 2**63, "up": 0}}, "moved.down"),
        ("outcome", {"client": None}, "client: Input should be a valid string"),
        ("outcome", {"more": 1}, "more in it is unknown: are both sides of one version"),
        ("work", {"round": -1}, "round"),
        ("work", {"seed": 1.5}, "seed: Input should be a valid integer"),
        ("work", {"trains": ["a", "bias"]}, "trains.1: Input should be 'a', 'b' or 'head'"),
        ("work", {"penalty": {"kept": -1, "weight": 0.5}}, "penalty.kept"),
        ("work", {"penalty": {"kept": 1, "weight": float("inf")}}, "penalty.weight"),
        ("work", {"penalty": {"kept": 1}}, "penalty lacks weight"),
        ("work", {"proximal": {"weight": -0.5, "parts": ["a"]}}, "proximal.weight"),
        ("work", {"proximal": {"weight": 0.5, "parts": ["c"]}}, "proximal.parts.0: Input should be 'a', 'b' or 'head'"),
        ("work", {"proximal": {"weight": 0.5}}, "proximal lacks parts"),
        ("work", {"lr_share": float("inf")}, "lr_share"),
        ("work", {"lr_share": -0.5}, "lr_share"),
        ("work", {"scored": 1}, "scored: Input should be a valid boolean"),
        ("work", {"adapter": None}, "adapter: Input should be"),
        ("work", {"adapter": {"modules": {"q": [1, 1, 1]}, "dense": {}}}, "adapter.modules.q"),
        ("error", {"message": 3}, "message: Input should be a valid string"),
    ],
)
def test_what_makes_no_sense_is_refused(kind: str, changed: dict[str, Any], reason: str):
    read = read_request if kind in REQUESTS else read_reply
    with pytest.raises(SiteError, match=reason):
        read({kind: {**WORDS[kind], **changed}}, b"")


def test_a_fault_is_told_without_its_text():
    """Whoever asked may pass it on, and a library's error may quote a text."""
    header, _ = framed(requests.failed(ValueError("Ann Lee has a fever"), "training ann"))
    assert header["error"]["message"].startswith("the site failed at training ann: ValueError (")
    assert "fever" not in str(header)


@pytest.mark.parametrize("message", ["", " \n"])
def test_a_failure_without_a_word_is_said_to_be_one(message: str):
    with pytest.raises(errors.ConfigError, match="the site failed, and does not say why"):
        read_reply(*framed(requests.Failed("ConfigError", message)))
