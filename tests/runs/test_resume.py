"""A run goes on only as what it is, and then as if it had been asked for from the start what is asked for now."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from polyrank import config as configuration
from polyrank.config import Config
from polyrank.core.errors import RunFolderError
from polyrank.runs import checkpoint
from polyrank.runs.folder import RunFolder
from polyrank.runs.resume import check_model
from polyrank.runs.runner import run, saved_config
from polyrank.tasks import settled
from tests.conftest import Configure
from tests.runs.runs import assert_same_run, final, interrupt, metrics


@pytest.mark.parametrize(("rounds", "every", "then"), [(3, 2, 2), (2, 9, 1), (3, 1, 2)])
def test_a_run_made_longer_has_the_evaluations_of_one_of_that_length(
    configure: Configure, tmp_path: Path, rounds: int, every: int, then: int
):
    """Also where ``evaluation.every`` changes: the end of the first part leaves no evaluation that is not due."""
    long = ("federation.rounds=4", f"evaluation.every={every * then}")
    run(configure(*long), tmp_path / "whole")
    run(configure(f"federation.rounds={rounds}", f"evaluation.every={every}"), tmp_path / "longer")
    run(configure(*long), tmp_path / "longer", resume=True)
    found = [line["round"] for line in metrics(tmp_path / "longer") if "test/accuracy" in line]
    assert found == [number for number in (1, 2, 3, 4) if number % (every * then) == 0 or number == 4]
    assert_same_run(tmp_path / "whole", tmp_path / "longer")


def test_scores_that_are_left_out_are_named(configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Three rounds were evaluated; of four with ``evaluation.every = 2`` the first and the third are not."""
    run(configure("federation.rounds=3", "evaluation.every=1"), tmp_path)
    run(configure("federation.rounds=4", "evaluation.every=2"), tmp_path, resume=True)
    assert "the scores of round 1, 3 are left out, since a run of 4 rounds with evaluation.every 2" in caplog.text


@pytest.mark.parametrize("head", ["mean", "local"])
def test_a_run_that_ends_earlier_than_planned_is_evaluated_at_its_end(configure: Configure, tmp_path: Path, head: str):
    """Evaluated every ninth round, stopped after the second, and then said to be two rounds long."""
    short = configure("federation.rounds=2", "evaluation.every=9", f"federation.head={head}")
    interrupt(
        configure("federation.rounds=9", "evaluation.every=9", f"federation.head={head}"), tmp_path, after_round=2
    )
    run(short, tmp_path, resume=True)
    run(short, tmp_path / "whole")
    assert_same_run(tmp_path / "whole", tmp_path)


def test_evaluations_that_were_left_out_cannot_be_asked_for_later(configure: Configure, tmp_path: Path):
    run(configure("evaluation.every=3"), tmp_path)
    with pytest.raises(RunFolderError, match=r"round 1 was not evaluated, and with evaluation\.every 1 it would have"):
        run(configure("federation.rounds=4", "evaluation.every=1"), tmp_path, resume=True)
    assert len(metrics(tmp_path)) == 3


@pytest.mark.parametrize("left", [0, 1])
def test_a_run_whose_measurements_are_gone_does_not_go_on(configure: Configure, tmp_path: Path, left: int):
    """Its best, mean and total figures would be of the rounds that are left."""
    interrupt(configure(), tmp_path, after_round=2)
    file = tmp_path / "metrics.jsonl"
    kept = file.read_text().splitlines(keepends=True)[:left]
    file.write_text("".join(kept))
    with pytest.raises(RunFolderError, match=rf"no line of round {left + 1}, and the checkpoint is of round 2"):
        run(configure(), tmp_path, resume=True)
    assert file.read_text() == "".join(kept)


def test_a_trial_is_not_taken_for_the_run(configure: Configure, tmp_path: Path):
    """What was set for the trial and is not set now is named, in either order; asked for in the same way it goes on."""
    few = ("data.limit_train=60", "data.size=8")
    interrupt(configure(*few), tmp_path, after_round=1)
    with pytest.raises(RunFolderError, match=r"data\.limit_train is 60 there and not set here; data\.size is 8 there"):
        run(configure(), tmp_path, resume=True)
    run(configure(*few), tmp_path, resume=True)
    interrupt(configure(), tmp_path / "full", after_round=1)
    with pytest.raises(RunFolderError, match=r"data\.limit_train is not set there and 60 here"):
        run(configure(*few), tmp_path / "full", resume=True)


def test_what_was_asked_for_is_kept_beside_what_it_was_resolved_to(configure: Configure, tmp_path: Path):
    """A client for each of three owners, and the head that the checkpoint needs, whether asked or resolved."""
    asked = configure("data.partition=by-column", "data.column=owner", "ranks.counts=[2, 1]")
    asked = asked.model_copy(update={"federation": asked.federation.model_copy(update={"clients": None})})
    interrupt(asked, tmp_path, after_round=1)
    kept = RunFolder(tmp_path).read_asked()
    assert kept.requested == settled(asked)
    assert (kept.resolved.federation.clients, kept.resolved.model.head) == (3, "model")
    run(asked, tmp_path, resume=True)
    run(saved_config(tmp_path), tmp_path, resume=True)
    assert RunFolder(tmp_path).read_asked() == kept


def rows(config: Config) -> list[str]:
    return Path(config.data.train).read_text(encoding="utf-8").splitlines(keepends=True)


def on(config: Config, train: Path, lines: list[str]) -> Config:
    """The same on another file."""
    train.parent.mkdir(exist_ok=True)
    train.write_text("".join(lines), encoding="utf-8")
    return configuration.override(config, [f"data.train={train}"])


def test_a_run_is_not_resumed_on_other_data(configure: Configure, tmp_path: Path):
    """One label is changed in place; then one row is left out; with the rows as they were it goes on, from anywhere."""
    given = rows(configure())
    config = on(configure(), tmp_path / "a.csv", given)
    interrupt(config, tmp_path / "run", after_round=1)
    before = checkpoint.load(tmp_path / "run" / "checkpoint")
    other = "pets" if "fruit" in given[1] else "fruit"
    on(
        config,
        tmp_path / "a.csv",
        [given[0], given[1].replace("fruit" if other == "pets" else "pets", other), *given[2:]],
    )
    with pytest.raises(
        RunFolderError, match="model changed since the run was made: training labels were 240 rows"
    ) as e:
        run(config, tmp_path / "run", resume=True)
    assert "training texts" not in str(e.value)
    on(config, tmp_path / "a.csv", given[:-1])
    with pytest.raises(RunFolderError, match=r"training texts were 240 rows, .* and are 239 rows, "):
        run(saved_config(tmp_path / "run"), tmp_path / "run", resume=True)
    assert final(tmp_path / "run").adapter.identical(before.adapter)
    moved = on(config, tmp_path / "elsewhere" / "b.csv", given)
    run(moved, tmp_path / "run", resume=True)
    assert saved_config(tmp_path / "run").data.train == moved.data.train
    run(on(config, tmp_path / "a.csv", given), tmp_path / "whole")
    assert final(tmp_path / "whole").adapter.identical(final(tmp_path / "run").adapter)


def test_a_run_is_not_resumed_on_other_weights(configure: Configure, tmp_path: Path):
    """A copy of the model's folder elsewhere is the same model until a number in it changes."""
    interrupt(configure(), tmp_path / "run", after_round=1)
    copy = tmp_path / "copy"
    shutil.copytree(configure().model.name, copy)
    config = configure(f"model.name={copy}")
    interrupt(config, tmp_path / "run", after_round=2, resume=True)
    tensors = load_file(copy / "model.safetensors")
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunFolderError, match="model changed since the run was made: model's weights were"):
        run(config, tmp_path / "run", resume=True)
    with pytest.raises(RunFolderError, match=r"run: the base .*copy changed since the run was made: model's weights"):
        check_model(RunFolder(tmp_path / "run"))


def test_classes_in_another_order_are_refused(configure: Configure, tmp_path: Path):
    """As another version might order them: a head knows its classes by their order."""
    interrupt(configure(), tmp_path, after_round=1)
    folder = RunFolder(tmp_path)
    folder.write_json("run", folder.read_json("run") | {"labels": ["pets", "fruit"]})
    with pytest.raises(RunFolderError, match="the classes were pets, fruit and are fruit, pets; a head knows them by"):
        run(configure(), tmp_path, resume=True)


def test_a_checkpoint_of_a_run_on_other_data_is_refused(configure: Configure, tmp_path: Path):
    """Both runs have the same configuration, and one's checkpoint is put into the other's folder."""
    given, config = rows(configure()), configure()
    one = on(config, tmp_path / "a.csv", given)
    interrupt(one, tmp_path / "one", after_round=1)
    interrupt(on(config, tmp_path / "a.csv", given[:-1]), tmp_path / "two", after_round=1)
    shutil.rmtree(tmp_path / "two" / "checkpoint")
    shutil.copytree(tmp_path / "one" / "checkpoint", tmp_path / "two" / "checkpoint")
    with pytest.raises(RunFolderError, match="round-00001 belongs to another configuration, or to other data"):
        run(one, tmp_path / "two", resume=True)
