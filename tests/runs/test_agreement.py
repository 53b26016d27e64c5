from __future__ import annotations

from pathlib import Path

import pytest

from polyrank import config as configuration
from polyrank.config import Config
from polyrank.core.errors import RunFolderError
from polyrank.runs.agreement import Asked, Record, fingerprint
from polyrank.runs.folder import RunFolder
from polyrank.tasks import settled

HERE = Path("runs/a")
DIGESTS = {"training texts": "70 rows, aa", "training labels": "70 rows, bb", "model's weights": "cc"}


def load(*overrides: str) -> Config:
    return configuration.load(overrides=overrides)


def test_a_fingerprint_is_of_all_that_a_resumed_run_may_not_change():
    mark = fingerprint(Config(), DIGESTS)
    moved = ("model.name=x", "model.revision=v2", "data.train=b.csv", "data.test=c.csv")
    for allowed in ("federation.rounds=99", "evaluation.every=5", "output.project=x", "training.workers=2", *moved):
        assert fingerprint(load(allowed), DIGESTS) == mark
    for other in ("federation.seed=1", "training.lr=0.1", "ranks.alpha=1", "data.limit_train=5", "model.dropout=0.1"):
        assert fingerprint(load(other), DIGESTS) != mark
    assert fingerprint(Config(), DIGESTS | {"model's weights": "dd"}) != mark


def test_a_run_that_is_older_than_the_task_goes_on():
    """A checkpoint of a version without ``[task]`` has this fingerprint; another task's is another."""
    assert fingerprint(settled(Config()), {"a": "b"}) == "72c295c5df2f79f2"
    mark = fingerprint(settled(Config()), DIGESTS)
    assert fingerprint(load("task.name=classification", "task.options={}"), DIGESTS) == mark
    assert fingerprint(load("task.name=words"), DIGESTS) != mark != fingerprint(load("task.options={a=1}"), DIGESTS)


def test_a_fingerprint_survives_the_file(tmp_path: Path):
    given = load("model.config={hidden_dropout_prob = 0, a = [1, 2.0]}", "training.lr=1e-3")
    RunFolder(tmp_path).write_config(Asked(given, given))
    assert fingerprint(RunFolder(tmp_path).read_config(), DIGESTS) == fingerprint(given, DIGESTS)


def test_a_resumed_run_is_the_saved_one_but_for_its_length_evaluation_and_output():
    """Whether it is asked for as it was then, or as it was resolved: clients, precision, head."""
    resolved = load("federation.clients=100", "training.precision=bfloat16", "model.head=model", "federation.rounds=5")
    saved = Asked(load("federation.rounds=5"), resolved)
    later = ("federation.rounds=9", "evaluation.every=3", "output.project=x")
    for now in (load(*later), configuration.override(resolved, later)):
        agreed = saved.agreed(now, HERE)
        assert agreed.resolved == configuration.override(resolved, later)
        assert agreed.requested == load(*later)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.limit_train", "100"),
        ("data.limit_test", "10"),
        ("data.size", "8"),
        ("data.labels", '["a", "b"]'),
        ("data.column", "site"),
        ("federation.clients", "5"),
        ("ranks.counts", "[3, 2]"),
        ("ranks.shares", "[0.5, 0.5]"),
        ("model.head", "model"),
        ("training.precision", "float32"),
        ("training.attention", "eager"),
    ],
)
def test_what_was_set_then_and_is_not_now_is_another_run(key: str, value: str):
    """And the other way round. Else a trial with 5 clients and 100 texts would pass for the run with 100 clients."""
    trial, full = load(f"{key}={value}"), load()
    resolved = configuration.override(full, ["federation.clients=100"])
    for saved, now in ((Asked(trial, trial), full), (Asked(full, resolved), trial)):
        with pytest.raises(RunFolderError, match=f"runs/a: the run is of another configuration: {key} is .* there and"):
            saved.agreed(now, HERE)
    assert Asked(trial, trial).agreed(trial, HERE).resolved == trial


def test_what_a_resumed_run_may_not_change_is_named():
    """An unset value is called so; of one that was resolved both are said."""
    saved = Asked(
        load("training.lr=0.002", "data.size=8"), load("training.lr=0.002", "data.size=8", "model.head=model")
    )
    with pytest.raises(RunFolderError) as error:
        saved.agreed(load("training.lr=0.1", "model.head=mean-pool", "ranks.levels=[5, 10]"), HERE)
    assert str(error.value) == (
        "runs/a: the run is of another configuration: model.head is 'auto', resolved to 'model', there and 'mean-pool' "
        "here; data.size is 8 there and not set here; ranks.levels is [5, 20] there and [5, 10] here; training.lr is "
        "0.002 there and 0.1 here. Go on without these changes, or start a new run with another --out"
    )


def test_a_resumed_run_may_be_trained_in_another_way():
    """Engines give the same result, so a run may go on with other processes; ``auto`` keeps what was chosen."""
    how = ["training.engine=batched", "training.clients_per_pass=5", "training.workers=2"]
    saved = Asked(load(), load(*how))
    assert saved.agreed(load(), HERE) == saved
    assert saved.agreed(load("training.workers=1"), HERE).resolved.training.workers == 1
    assert saved.agreed(load("training.gradient_checkpointing=true"), HERE).resolved.training.gradient_checkpointing


def test_the_length_of_a_run_is_fixed_where_the_rate_falls_over_it():
    """A budget may have cut it: what was asked for and what came of it are the same run, and another length is none."""
    falling = ("training.rounds_decay=cosine",)
    asked, resolved = load(*falling, "federation.rounds=300"), load(*falling, "federation.rounds=17")
    saved = Asked(asked, resolved)
    for now in (asked, resolved):
        assert saved.agreed(now, HERE) == saved
    with pytest.raises(RunFolderError) as error:
        saved.agreed(load(*falling, "federation.rounds=18"), HERE)
    assert (
        "federation.rounds is 300, resolved to 17, there and 18 here, and training.rounds_decay is a schedule over all "
        "of them"
    ) in str(error.value)
    assert fingerprint(asked, DIGESTS) != fingerprint(resolved, DIGESTS)
    free = Asked(load("federation.rounds=300"), load("federation.rounds=17"))
    assert free.agreed(load("federation.rounds=18"), HERE).resolved.federation.rounds == 18


@pytest.mark.parametrize(
    "other",
    [
        ("aggregation.server=adam", "aggregation.server_lr=0.1"),
        ("aggregation.server=momentum", "aggregation.server_options={beta1=0.5}"),
        ("training.proximal=0.1",),
        ("training.rounds_decay=linear",),
    ],
)
def test_what_is_around_a_method_may_not_change_and_is_nothing_by_default(other: tuple[str, ...]):
    """At its defaults a run has the fingerprint that it had before there was any of it."""
    mark = fingerprint(load(), DIGESTS)
    given = ("aggregation.server=none", "training.proximal=0.0", "training.rounds_decay=none", "evaluation.patience=3")
    assert fingerprint(load(*given), DIGESTS) == mark
    assert fingerprint(load(*other), DIGESTS) != mark
    with pytest.raises(RunFolderError, match=r"aggregation\.server|training\.(proximal|rounds_decay)"):
        Asked(load(), load()).agreed(load(*other), HERE)


def test_data_and_model_may_move_but_not_change():
    there, here = (
        load("data.train=a.csv", "model.name=m"),
        load("data.train=b/a.csv", "data.test=t.csv", "model.name=n"),
    )
    agreed = Asked(there, there).agreed(here, HERE)
    assert (agreed.resolved.data.train, agreed.resolved.model.name) == ("b/a.csv", "n")
    record = Record(HERE, DIGESTS, there, "3.11.7")
    record.check(dict(DIGESTS), here, "3.12.1")
    with pytest.raises(RunFolderError) as error:
        record.check(DIGESTS | {"training labels": "72 rows, dd", "test texts": "9 rows, ee"}, here, "3.11.7")
    assert str(error.value) == (
        "runs/a: the data or the model changed since the run was made: training labels were 70 rows, bb and are 72 "
        "rows, dd; test texts were none and are 9 rows, ee; data.train is 'a.csv' there and 'b/a.csv' here; data.test "
        "is not set there and 't.csv' here; model.name is 'm' there and 'n' here. Go on with what it was made with, or "
        "start a new run with another --out"
    )


def test_the_text_of_another_python_is_other_data():
    record = Record(HERE, DIGESTS, load(), "3.11.7")
    with pytest.raises(RunFolderError, match=r"Python that reads it, 3\.11\.7 there and 3\.12\.1 here\."):
        record.check(DIGESTS | {"training texts": "71 rows, zz"}, load(), "3.12.1")
