from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import RunFolderError
from polyrank.core.state import ServerState
from polyrank.runs import checkpoint
from tests.runs.disk import files_up_to, no_space


def state(number: int) -> ServerState:
    """A server after so many rounds, with values of that round, and scales that no short decimal can write."""
    draw = torch.Generator().manual_seed(number)
    wide = Factors(torch.randn(3, 5, generator=draw), torch.randn(7, 3, generator=draw), 0.1 + 0.2)
    half = Factors(torch.randn(2, 4, generator=draw).bfloat16(), torch.randn(4, 2, generator=draw).bfloat16(), 2 / 3)
    head = {"head.weight": torch.randn(2, 7, generator=draw), "head.bias": torch.tensor([-0.0, 1e-40])}
    own = {"layer.0.q.b": torch.randn(7, 1, generator=draw), "layer.1.v.b": half.b[:, :1] * number}
    personal = {"Bob's/phone 7.a": own | {name: tensor + number for name, tensor in head.items()}}
    change = Factors(torch.randn(4, 5, generator=draw), torch.randn(7, 4, generator=draw), 1 / 7)
    ranks = {"Bob's/phone 7.a": 1, "é": 3}
    return ServerState(
        number,
        Adapter({"layer.0.q": wide, "layer.1.v": half}, head),
        ranks,
        {"Bob's/phone 7.a": 1 / 3, "é": 2.0},
        personal,
        Adapter({"layer.0.q": change}),
        seed=number - 2**62,
    )


def same(one: ServerState, other: ServerState) -> bool:
    own, others = ({c: Adapter({}, p) for c, p in s.personal.items()} for s in (one, other))
    changes = (one.base_change, other.base_change)
    return (
        one.adapter.identical(other.adapter)
        and (changes == (None, None) or (None not in changes and changes[0].identical(changes[1])))
        and (one.round, one.ranks, one.scales, one.seed) == (other.round, other.ranks, other.scales, other.seed)
        and own.keys() == others.keys()
        and all(own[client].identical(others[client]) for client in own)
    )


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A folder with the rounds 1 and 2."""
    for number in (1, 2):
        checkpoint.save(tmp_path, state(number), "abc")
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_state_comes_back_bit_for_bit(tmp_path: Path):
    assert checkpoint.save(tmp_path / "new", state(7), "abc") == tmp_path / "new" / "round-00007"
    assert same(checkpoint.load(tmp_path / "new", "abc"), state(7))


def test_a_state_without_a_base_change_comes_back_without_one(tmp_path: Path):
    """None, which no adapter without modules stands for."""
    given = replace(state(7), base_change=None, personal={})
    checkpoint.save(tmp_path, given, "abc")
    found = checkpoint.load(tmp_path, "abc")
    assert found.base_change is None
    assert same(found, given)
    assert not same(found, state(7))


def test_the_last_two_rounds_are_kept(tmp_path: Path):
    for number in range(5):
        checkpoint.save(tmp_path, state(number), "abc")
    assert names(tmp_path) == ["round-00003", "round-00004"]
    assert checkpoint.load(tmp_path).round == 4


def test_rounds_are_ordered_as_numbers(tmp_path: Path):
    """As text, "round-100000" comes before "round-99999"."""
    for number in (99_999, 100_000):
        checkpoint.save(tmp_path, state(number), "abc")
    assert checkpoint.load(tmp_path).round == 100_000


def test_tensors_that_are_views_or_share_memory_are_saved(tmp_path: Path):
    """B as the transpose of A, and a client's head that is the server's own tensor, untrained."""
    a = torch.arange(6.0).view(2, 3)
    head = {"head": torch.ones(3)}
    given = ServerState(0, Adapter({"m": Factors(a, a.T)}, head), {"ann": 1}, {"ann": 1.0}, {"ann": head})
    checkpoint.save(tmp_path, given, "abc")
    assert same(checkpoint.load(tmp_path), given)


def cut(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).write_bytes((path / name).read_bytes()[:-20])


def flip(path: Path) -> None:
    data = bytearray((path / "tensors.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "tensors.safetensors").write_bytes(data)


def rewrite(key: str, value: object) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        about = json.loads((path / "state.json").read_text(encoding="utf-8"))
        (path / "state.json").write_text(json.dumps(about | {key: value}), encoding="utf-8")

    return damage


DAMAGE: dict[str, Callable[[Path], None]] = {
    "tensors are cut off": cut("tensors.safetensors"),
    "state.json is cut off": cut("state.json"),
    "a bit of the tensors is flipped": flip,
    "tensors are missing": lambda path: (path / "tensors.safetensors").unlink(),
    "state.json is missing": lambda path: (path / "state.json").unlink(),
    "tensors are empty": lambda path: (path / "tensors.safetensors").write_bytes(b""),
    "state.json is empty": lambda path: (path / "state.json").write_bytes(b""),
    "state.json is no text": lambda path: (path / "state.json").write_bytes(b"\xff\xfe\x00"),
    "state.json is a list": lambda path: (path / "state.json").write_text("[]"),
    "the round was changed": rewrite("round", 3),
    "the seed was changed": rewrite("seed", 3),
    "a scale of the base change was changed": rewrite("base_change_scales", {"layer.0.q": 1.0}),
    "a rank was changed": rewrite("ranks", {"Bob's/phone 7.a": 2, "é": 3}),
    "a format of the future": rewrite("format", 99),
    "it is a file": lambda path: (shutil.rmtree(path), path.write_text("x")),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_of_a_damaged_checkpoint_the_previous_one_is_used_and_it_says_so(
    two: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
):
    damage(two / "round-00002")
    with caplog.at_level(logging.WARNING):
        assert same(checkpoint.load(two, "abc"), state(1))
    (record,) = caplog.records
    assert record.getMessage().startswith("the checkpoint round-00002 is damaged (")
    assert record.getMessage().endswith("; trying the previous one")


def test_the_damaged_round_is_replaced_when_it_has_been_run_again(two: Path):
    flip(two / "round-00002")
    checkpoint.save(two, state(2), "abc")
    assert same(checkpoint.load(two), state(2))
    assert names(two) == ["round-00001", "round-00002"]


def test_without_a_whole_checkpoint_each_one_is_named(two: Path):
    cut("state.json")(two / "round-00001")
    flip(two / "round-00002")
    with pytest.raises(
        RunFolderError, match=r"is whole \(round-00002: the checksum.*; round-00001: .*--overwrite"
    ) as e:
        checkpoint.load(two)
    assert "\n" not in str(e.value)


def test_without_any_checkpoint_it_says_what_to_do(tmp_path: Path):
    with pytest.raises(RunFolderError, match=r"there is no checkpoint in .*; start anew with --overwrite"):
        checkpoint.load(tmp_path / "absent")


def test_a_checkpoint_of_another_configuration_is_refused(two: Path):
    """Not even an older one of the right configuration is taken: something is mixed up."""
    checkpoint.save(two, state(3), "xyz")
    with pytest.raises(RunFolderError, match="round-00003 belongs to another configuration, or to other data, than"):
        checkpoint.load(two, "abc")


@pytest.mark.parametrize("syncs", [1, 2, 3, 4])
def test_a_save_that_is_cut_short_anywhere_leaves_a_whole_checkpoint(
    two: Path, syncs: int, monkeypatch: pytest.MonkeyPatch
):
    """Data are forced to disk four times: tensors, state.json, their folder, and the rename, which is done by then."""
    left, real = syncs, os.fsync

    def fsync(handle: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(two, state(3), "abc")
    assert same(checkpoint.load(two, "abc"), state(3 if syncs == 4 else 2))
    checkpoint.save(two, state(3), "abc")
    assert names(two) == ["round-00002", "round-00003"]
    assert same(checkpoint.load(two, "abc"), state(3))


@pytest.mark.parametrize("full", ["tensors.safetensors", "state.json"])
def test_a_full_disk_leaves_the_earlier_checkpoints_alone(two: Path, full: str, monkeypatch: pytest.MonkeyPatch):
    real = checkpoint._write

    def write(path: Path, data: bytes) -> None:
        real(path, data[:10] if path.name == full else data)
        if path.name == full:
            raise no_space()

    monkeypatch.setattr(checkpoint, "_write", write)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(two, state(3), "abc")
    assert names(two) == ["round-00001", "round-00002"]
    assert same(checkpoint.load(two, "abc"), state(2))


def test_a_write_that_the_system_cuts_off_leaves_the_earlier_checkpoints_alone(two: Path):
    large = replace(state(3), personal={"ann": {"head": torch.zeros(100_000)}})
    with files_up_to(50_000), pytest.raises(OSError, match="File too large"):
        checkpoint.save(two, large, "abc")
    assert names(two) == ["round-00001", "round-00002"]
    assert same(checkpoint.load(two, "abc"), state(2))
