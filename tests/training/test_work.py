"""What a client is asked to do and what comes back; and that those who carry it know none of its fields."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import polyrank
from polyrank.core import codec, strict
from polyrank.core.adapter import PARTS, Adapter, Factors
from polyrank.privacy import Guard
from polyrank.site import requests as frames
from polyrank.training import remote
from polyrank.training.work import Moved, Outcome, Penalty, Proximal, Work, in_order, in_passes

flower = pytest.importorskip("polyrank.flower.messages", reason="needs the extra flower")


def adapter(seed: int, rank: int = 2) -> Adapter:
    """Two modules of scales of their own and a head; values that no dtype of a wire rounds."""
    draw = torch.Generator().manual_seed(seed)

    def whole(*shape: int) -> Tensor:
        return torch.randint(-8, 8, shape, generator=draw).float()

    modules = {"one": Factors(whole(rank, 3), whole(4, rank), 0.5), "two": Factors(whole(1, 4), whole(2, 1), 2.0)}
    return Adapter(modules, {"head.weight": whole(2, 2)})


def work(client: str = "anna", seed: int = 0) -> Work:
    return Work(client, 3, adapter(seed), seed)


@pytest.mark.parametrize("trains", [{"a"}, {"b"}, {"head"}, {"a", "head"}, PARTS])
def test_an_update_is_what_was_trained_in_what_was_sent(trains: set[str]):
    """What was not trained is what it started from, the very tensors; scales, weight and metrics are there too."""
    start, after = adapter(0), adapter(1)
    asked = Work("anna", 3, start, 0, trains=frozenset(trains))
    update = Outcome("anna", after.parts(trains), 7.0, {"loss": 0.5, "steps": 2}).update(asked)
    assert (update.client, update.weight, update.metrics) == ("anna", 7.0, {"loss": 0.5, "steps": 2})
    found, sent = dict(update.adapter.tensors()), dict(start.tensors())
    assert list(found) == list(sent)
    changed = after.parts(trains)
    assert all(found[name] is changed.get(name, sent[name]) for name in sent)
    assert {name: factors.scale for name, factors in update.adapter.modules.items()} == {"one": 0.5, "two": 2.0}


def test_where_nothing_was_trained_there_is_no_update():
    assert Outcome("anna", problem="its node is not connected").update(work()) is None


def test_what_moved_adds_up():
    assert Moved() + Moved(3, 4) + Moved(down=5) == Moved(8, 4)
    assert sum([Moved(1, 2), Moved(10, 20)], Moved()) == Moved(11, 22)


@given(st.permutations("abcde"), st.permutations("abcde"))
def test_outcomes_come_in_the_order_of_the_works(asked: list[str], done: list[str]):
    """Each as soon as those before it have come, and no sooner."""
    arrived: list[str] = []

    def arriving():
        for client in done:
            arrived.append(client)
            yield Outcome(client)

    found = []
    for outcome in in_order([work(client) for client in asked], arriving()):
        found.append(outcome.client)
        assert len(arrived) == max(done.index(client) for client in asked[: len(found)]) + 1
    assert found == list(asked)


def test_passes_begin_with_those_of_most_steps():
    """Batches of 4: 9 and 12 examples are three steps, 5 and 8 two, 1 is one; ties in the order of the works."""
    sizes = {"a": 1, "b": 9, "c": 5, "d": 12, "e": 8}
    held = {client: range(size) for client, size in sizes.items()}
    asked = [work(client) for client in sizes]
    names = [[one.client for one in together] for together in in_passes(asked, 2, held, 4)]
    assert names == [["b", "d"], ["c", "e"], ["a"]]
    assert [one.client for one in in_passes(asked[::-1], 9, held, 4)[0]] == ["d", "b", "e", "c", "a"]
    assert in_passes([], 2, held, 4) == []


# A new field ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """What a new field may hold: fields of its own."""

    points: tuple[float, ...]
    name: str | None = None


@dataclass(frozen=True, eq=False)
class More(Work):
    """A work with fields that nobody knows, as if they stood in `Work`: plain, nested, and with tensors."""

    note: str = ""
    curve: Curve | None = None
    extra: Adapter | None = None
    masks: Mapping[str, Tensor] = field(default_factory=dict)


@pytest.fixture
def more(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if `Work` were `More`, wherever it is carried."""
    for carrier in (remote, frames, flower):
        monkeypatch.setattr(carrier, "Work", More)
    monkeypatch.setitem(frames._KINDS, "work", More)
    cached = (codec._hints, codec._holds_tensors, strict._validator)
    for one in cached:
        one.cache_clear()
    yield
    for one in cached:
        one.cache_clear()


def by_process(sent: Work) -> Work:
    """To a process that trains, which is asked in passes."""
    return codec.loads(remote.Pass, codec.dumps(remote.Pass({"anna": sent}))).works["anna"]


def by_socket(sent: Work) -> Work:
    """To a site's daemon."""
    header, body = frames.framed(sent)
    assert header.keys() == {"work"}
    return frames.read_request(header, body)


def by_flower(wire: str) -> Callable[[Work], Work]:
    """To a Flower node."""
    return lambda sent: flower.read_question(flower.question(flower.Asked(sent, "token", "config", wire))).work


def alike(one: object, other: object) -> bool:
    """The same values, tensors bit for bit."""
    if isinstance(one, Adapter):
        return isinstance(other, Adapter) and one.identical(other)
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, Work):
        return type(one) is type(other) and all(
            alike(getattr(one, f.name), getattr(other, f.name)) for f in fields(one)
        )
    if isinstance(one, Mapping):
        return isinstance(other, Mapping) and one.keys() == other.keys() and all(alike(one[k], other[k]) for k in one)
    return one == other


CARRIERS = {
    "process": by_process,
    "socket": by_socket,
    "flower, float32": by_flower("float32"),
    "flower, bfloat16": by_flower("bfloat16"),
}
WHOLE = {
    **{"client": "a/b, %2F \u2713", "round": 3, "adapter": adapter(0), "seed": 2**62 + 1},
    **{"base_change": Adapter(adapter(2).map(lambda tensor: tensor + 1.0001).modules), "trains": frozenset({"b"})},
    **{"penalty": Penalty(1, 0.1), "scored": True, "guard": Guard(0.5, 2.0, 1.5, metrics=True, secret="s")},
    **{"proximal": Proximal(0.3, frozenset({"b"})), "lr_share": 0.25, "chooses": 5},
}
"""A value for each field of `Work`, other than its default."""
NEW = {
    **{"note": "x" * 1000, "curve": Curve((0.1, 2.0), "lr"), "extra": adapter(3, rank=3)},
    "masks": {"a/b": torch.ones(2, 3), "a%2Fb": torch.zeros(0)},
}


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_work_survives_every_carrier(carrier: str):
    """Every field; base changes are rounded by no wire."""
    assert WHOLE.keys() == {f.name for f in fields(Work)}, "give the new field a value here"
    carry = CARRIERS[carrier]
    for sent in (Work(**WHOLE), Work("anna", 0, adapter(1), -5)):
        assert alike(carry(sent), sent)


@pytest.mark.usefixtures("more")
@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_new_field_survives_every_carrier(carrier: str):
    """It is added where `Work` is, and where the server fills it in: nobody else has to know it."""
    carry = CARRIERS[carrier]
    for sent in (More(**WHOLE, **NEW), More(**WHOLE), More("anna", 0, adapter(1), 0, note="only this")):
        assert alike(carry(sent), sent)


FREE = {"client", "round", "adapter", "trains", "seed", "scored"}
"""Fields that others may know: whose work it is, what came of it, and what a site is asked beside training."""
MAY_KNOW = {"training/work.py", "federation/server.py"}
"""Where fields are declared, and where they are filled in."""


def words(source: Path) -> set[str]:
    """Names of fields that are read or given in a file, and texts that are one word."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.keyword) and node.arg:
            found.add(node.arg)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
    return found


def test_no_carrier_spells_a_field_of_work():
    """Except for the one that Flower's wire does not round, by its name in `polyrank.flower.messages.EXACT`."""
    root = Path(polyrank.__file__).parent
    carriers = [
        *root.glob("site/*.py"),
        *root.glob("flower/*.py"),
        root / "training/workers.py",
        root / "core/codec.py",
    ]
    names = {f.name for f in fields(Work)} - FREE
    assert {"penalty", "base_change"} <= names
    found = {path.relative_to(root).as_posix(): names & words(path) for path in carriers}
    spelled = {path: own for path, own in found.items() if own and path not in MAY_KNOW}
    assert spelled == {"flower/messages.py": {flower.EXACT}}
