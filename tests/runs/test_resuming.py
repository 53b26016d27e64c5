"""A run that was stopped anywhere and resumed is the run that was not, bit for bit."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from polyrank import config as configuration
from polyrank.config import Config
from polyrank.core.errors import RunFolderError
from polyrank.core.state import ServerState
from polyrank.runs import checkpoint
from polyrank.runs.agreement import Asked
from polyrank.runs.folder import RunFolder
from polyrank.runs.runner import run, saved_config
from polyrank.tasks import settled
from tests.conftest import Configure
from tests.runs.runs import assert_same_run, final, interrupt, metrics

VARIANTS: dict[str, tuple[str, ...]] = {
    "fixed ranks, averaged head": (),
    "scored ranks, local heads": (
        "ranks.policy=validation",
        "ranks.validation_per_label=10",
        "ranks.scaling=rslora",
        "federation.head=local",
        "aggregation.method=tempered",
    ),
}
MORE_STATE: dict[str, tuple[str, ...]] = {
    "a base change that goes to everyone": ("aggregation.method=flora",),
    "a base change that stays with the server": ("aggregation.method=fedhl", "ranks.scaling=lora"),
    "B and head stay with the clients": ("aggregation.method=fedsa",),
    "B and A take turns": ("aggregation.method=rolora",),
    "near to where the round began, at a falling rate": ("training.proximal=50", "training.rounds_decay=cosine"),
    "clients shrink": ("ranks.policy=self_pruning", "ranks.prune_keep=0.6", "ranks.prune_weight=10"),
    "clients shrink and keep B": (
        *("ranks.policy=self_pruning", "ranks.prune_keep=0.6", "ranks.prune_weight=10", "ranks.scaling=lora"),
        *("aggregation.method=fedsa", "federation.participation=1"),
    ),
}


@pytest.fixture(scope="module", params=VARIANTS.values(), ids=VARIANTS)
def config(request: pytest.FixtureRequest, configure: Configure) -> Config:
    return configure("federation.rounds=4", *request.param)


@pytest.fixture(scope="module")
def whole(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(config, folder)
    return folder


@pytest.mark.parametrize("when", [{"in_round": 1}, {"in_round": 3}, {"after_round": 0}, {"after_round": 2}])
def test_a_stopped_run_goes_on_to_the_same_end(config: Config, whole: Path, tmp_path: Path, when: dict[str, int]):
    interrupt(config, tmp_path, **when)
    assert final(tmp_path).round == when.get("after_round", when.get("in_round", 0) - 1)
    run(saved_config(tmp_path), tmp_path, resume=True)
    assert_same_run(whole, tmp_path)


def test_it_can_be_stopped_in_every_round(config: Config, whole: Path, tmp_path: Path):
    interrupt(config, tmp_path, in_round=1)
    for number in (1, 2, 3):
        interrupt(config, tmp_path, resume=True, after_round=number)
    run(config, tmp_path, resume=True)
    assert_same_run(whole, tmp_path)


@pytest.mark.parametrize("overrides", MORE_STATE.values(), ids=MORE_STATE)
def test_all_that_a_method_or_policy_remembers_goes_on(
    configure: Configure, tmp_path: Path, overrides: tuple[str, ...]
):
    """Stopped after every round. Each variant must have what it is there for: else resuming it would be no test."""
    config = configure("federation.rounds=4", *overrides)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run(config, whole)
    interrupt(config, stopped, in_round=1)
    for number in (1, 2, 3):
        interrupt(config, stopped, resume=True, after_round=number)
    run(config, stopped, resume=True)
    assert_same_run(whole, stopped)

    state, method = final(whole), config.aggregation.method
    assert (state.base_change is not None) == (method in ("flora", "fedhl"))
    kept = {name for own in state.personal.values() for name in own}
    assert any(name.endswith(".b") for name in kept) == (method == "fedsa")
    assert (sorted(state.ranks.values()) != [2, 2, 2, 2, 4, 4]) == (config.ranks.policy == "self_pruning")


def test_a_line_whose_checkpoint_was_not_finished_is_written_once(
    config: Config, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Stopped between the two: metrics.jsonl is at round 3, the checkpoint at round 2."""
    real = checkpoint.save

    def save(folder: Path, state: ServerState, fingerprint: str) -> Path:
        if state.round == 3:
            raise KeyboardInterrupt
        return real(folder, state, fingerprint)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path)
    assert [line["round"] for line in metrics(tmp_path)] == [1, 2, 3]
    assert final(tmp_path).round == 2
    run(config, tmp_path, resume=True)
    assert_same_run(whole, tmp_path)


def test_after_a_damaged_checkpoint_it_goes_on_from_the_previous_one_and_says_so(
    config: Config, whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    interrupt(config, tmp_path, after_round=3)
    tensors = tmp_path / "checkpoint" / "round-00003" / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        run(config, tmp_path, resume=True)
    assert "the checkpoint round-00003 is damaged (the checksum does not match); trying the previous one" in caplog.text
    assert_same_run(whole, tmp_path)


def test_a_run_can_be_made_longer(config: Config, whole: Path, tmp_path: Path):
    """Two rounds, finished, and then four: as if it had been four from the start."""
    run(configuration.override(config, ["federation.rounds=2"]), tmp_path)
    run(config, tmp_path, resume=True)
    assert_same_run(whole, tmp_path)


def test_a_finished_run_stays_as_it_is(config: Config, whole: Path):
    before = final(whole), metrics(whole)
    run(config, whole, resume=True)
    assert final(whole).adapter.identical(before[0].adapter)
    assert metrics(whole) == before[1]


def test_a_run_whose_rate_falls_over_the_rounds_keeps_its_length(configure: Configure, tmp_path: Path):
    """And a run at half the rate in its second round is not one at the whole."""
    falling = "training.rounds_decay=linear"
    interrupt(configure(falling, "federation.rounds=2"), tmp_path / "run", after_round=1)
    with pytest.raises(RunFolderError) as found:
        run(configure(falling, "federation.rounds=3"), tmp_path / "run", resume=True)
    assert "federation.rounds is 2 there and 3 here, and training.rounds_decay is a schedule" in str(found.value)
    run(configure(falling, "federation.rounds=2"), tmp_path / "run", resume=True)
    run(configure("federation.rounds=2"), tmp_path / "plain")
    ours, theirs = metrics(tmp_path / "run"), metrics(tmp_path / "plain")
    assert ours[0] == theirs[0]
    assert ours[1]["train/loss"] != theirs[1]["train/loss"]


def test_a_run_is_not_made_shorter_than_it_is(configure: Configure, tmp_path: Path):
    run(configure(), tmp_path)
    with pytest.raises(RunFolderError, match=r"3 finished rounds and federation\.rounds is 2; expected 3 or more"):
        run(configure("federation.rounds=2"), tmp_path, resume=True)
    assert final(tmp_path).round == len(metrics(tmp_path)) == saved_config(tmp_path).federation.rounds == 3


def test_another_configuration_is_refused_and_the_run_is_kept(configure: Configure, tmp_path: Path):
    interrupt(configure(), tmp_path, after_round=1)
    with pytest.raises(RunFolderError, match=r"federation\.seed is 0 there and 1 here; training\.lr is 0\.005 there"):
        run(configure("federation.seed=1", "training.lr=0.1"), tmp_path, resume=True)
    assert final(tmp_path).round == 1


def test_another_order_of_the_classes_is_refused(configure: Configure, tmp_path: Path):
    """A head's rows are classes by their number: the saved ones would answer under each other's names."""
    run(configure("federation.rounds=1"), tmp_path)
    about = RunFolder(tmp_path).read_json("run")
    RunFolder(tmp_path).write_json("run", {**about, "labels": about["labels"][::-1]})
    with pytest.raises(RunFolderError, match="the classes were pets, fruit and are fruit, pets; a head knows them by"):
        run(configure("federation.rounds=2"), tmp_path, resume=True)


def test_a_checkpoint_of_another_run_is_refused_before_the_work(configure: Configure, tmp_path: Path):
    """config.toml was edited by hand; the model it names now does not exist, and is not looked for."""
    interrupt(configure(), tmp_path, after_round=1)
    edited = configure("federation.seed=5", "model.name=/no/such/model")
    RunFolder(tmp_path).write_config(Asked(settled(edited), settled(edited)))
    with pytest.raises(RunFolderError, match="round-00001 belongs to another configuration"):
        run(edited, tmp_path, resume=True)


def test_what_was_never_saved_cannot_be_resumed(configure: Configure, tmp_path: Path):
    with pytest.raises(RunFolderError, match="is no run folder"):
        run(configure(), tmp_path / "absent", resume=True)
    RunFolder(tmp_path).write_config(Asked(settled(configure()), settled(configure())))
    with pytest.raises(RunFolderError, match="there is no checkpoint"):
        run(configure(), tmp_path, resume=True)


SCRIPT = """
import os, signal, sys, torch
from pathlib import Path
from polyrank import config
from polyrank.runs.listener import Listener
from polyrank.runs.runner import run, saved_config

torch.set_num_threads(1)
what, source, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])

class Kill(Listener):
    saved = 0
    def on_saved(self, round_number):
        self.saved = round_number
    def on_client(self, stage, done, total):
        if stage == "training" and self.saved == 2 and done == 2:
            os.kill(os.getpid(), signal.SIGKILL)

if what == "start":
    run(config.load(source), out, listener=Kill())
else:
    run(saved_config(out), out, resume=True)
"""
"""Starts a run that kills itself, as nothing can catch, when the second of three clients of round 3 is trained."""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_process_that_was_killed_in_mid_round_is_resumed_by_another_one_bit_for_bit(
    configure: Configure, tmp_path: Path
):
    source, killed, whole = tmp_path / "config.toml", tmp_path / "killed", tmp_path / "whole"
    config = configure("federation.rounds=4")
    source.write_text(configuration.dump(config), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}

    def call(what: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", SCRIPT, what, str(source), str(killed)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=100)

    assert call("start").returncode == -signal.SIGKILL
    assert final(killed).round == 2
    assert not (killed / "summary.json").exists()
    resumed = call("resume")
    assert resumed.returncode == 0, resumed.stderr
    run(config, whole)
    assert_same_run(whole, killed)
