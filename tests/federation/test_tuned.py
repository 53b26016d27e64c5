"""What is fast is measured once for a kind of work, and remembered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from polyrank import ranks
from polyrank.core.cache import CACHE
from polyrank.federation.loading import load
from polyrank.federation.population import read
from polyrank.federation.site import Site
from polyrank.tasks import settled
from polyrank.training.dropout import UnbatchableError
from polyrank.training.tuning import remembered
from polyrank.training.tuning.trials import Trials, Way
from tests.conftest import Configure

AUTO = ("training.precision=auto", "training.attention=auto", "training.engine=auto", "training.clients_per_pass=auto")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "choices"


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[Way]:
    """What is timed: a way for each call."""
    calls: list[Way] = []
    real = Trials._time

    def called(trials: Trials, way: Way) -> float:
        calls.append(way)
        return real(trials, way)

    monkeypatch.setattr(Trials, "_time", called)
    return calls


def loaded(configure: Configure, *settings: str) -> Site:
    config = settled(configure(*AUTO, *settings))
    return load(config, read(config, ranks.policy(config.ranks)))


def test_the_second_start_measures_nothing_and_trains_the_same_way(configure: Configure, cache: Path, timed: list[Way]):
    """So do runs of other methods, seeds and learning rates: what is compared is computed in one way."""
    first = loaded(configure)
    assert timed
    assert len(list(cache.glob("*.json"))) == 1
    timed.clear()
    others = ([], ["aggregation.method=flora"], ["federation.seed=1"], ["training.lr=1e-2"])
    for settings in others:
        again = loaded(configure, *settings)
        chosen = {name: getattr(again.config.training, name) for name in remembered.MEASURED}
        assert chosen == {name: getattr(first.config.training, name) for name in remembered.MEASURED}
        assert str(again.plan) == f"{first.plan} (as measured before)"
    assert not timed
    loaded(configure, "training.batch_size=4")
    assert timed
    assert len(list(cache.glob("*.json"))) == 2


def test_what_is_said_is_not_what_was_chosen(configure: Configure, cache: Path, timed: list[Way]):
    """Keys that the user gives are another question, with an answer of its own."""
    loaded(configure)
    fixed = loaded(configure, "training.precision=float32", "training.attention=eager", "training.clients_per_pass=3")
    assert (fixed.config.training.precision, fixed.config.training.clients_per_pass) == ("float32", 3)
    assert {len(one.chosen) for one in remembered.everything()} == {4, 1}
    assert cache.is_dir()
    assert timed


@pytest.mark.usefixtures("cache")
def test_who_holds_which_texts_is_not_asked(configure: Configure, timed: list[Way]):
    """Another seed shares other texts out, of other lengths; it is computed in the same way."""
    loaded(configure, "data.size=8")
    timed.clear()
    for seed in (1, 2, 3):
        assert "as measured before" in str(loaded(configure, "data.size=8", f"federation.seed={seed}").plan)
    assert not timed


@pytest.mark.usefixtures("cache")
def test_an_engine_that_cannot_be_had_is_remembered(configure: Configure, monkeypatch: pytest.MonkeyPatch):
    """Also where it was asked for: the second start trains as the first, with the same words."""
    from polyrank.training.tuning import planner

    def refuse(*_: object) -> None:
        raise UnbatchableError("it couples them")

    with monkeypatch.context() as patch:
        patch.setattr(planner, "Batched", refuse)
        first = loaded(configure, "training.engine=batched", "training.clients_per_pass=3")
    again = loaded(configure, "training.engine=batched", "training.clients_per_pass=3")
    assert first.config.training.engine == again.config.training.engine == "sequential"
    assert again.plan.reason == first.plan.reason == "it couples them"


@pytest.mark.parametrize(
    "how",
    ["broken", "empty", "deep", "of other work", "wrong values", "nothing", "too much", "wrong types", "no memory"],
)
def test_what_cannot_be_used_is_measured_anew(
    configure: Configure, cache: Path, timed: list[Way], monkeypatch: pytest.MonkeyPatch, how: str
):
    loaded(configure)
    (file,) = cache.glob("*.json")
    values = json.loads(file.read_text(encoding="utf-8"))
    changed = {
        "broken": "{",
        "empty": "",
        "deep": "[" * 200_000,
        "nothing": json.dumps({**values, "chosen": {}}),
        "too much": json.dumps({**values, "free": 10**400}),
        "wrong types": json.dumps({**values, "when": 3, "reason": {}}),
        "of other work": json.dumps({**values, "of": {}}),
        "wrong values": json.dumps({**values, "chosen": {"precision": "int3"}}),
    }
    if how in changed:
        file.write_text(changed[how], encoding="utf-8")
    else:
        monkeypatch.setattr(remembered, "_free", lambda: values["free"] // 2)
    timed.clear()
    remembered.everything()
    assert "as measured before" not in str(loaded(configure).plan)
    assert timed
    if how in changed:  # what was measured takes the place of what could not be used
        assert "as measured before" in str(loaded(configure).plan)


def test_without_a_folder_nothing_is_kept(
    configure: Configure, tmp_path: Path, timed: list[Way], monkeypatch: pytest.MonkeyPatch
):
    """Nor where it cannot be made; a run begins all the same."""
    monkeypatch.setenv(CACHE, "")
    loaded(configure)
    assert remembered.everything() == []
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv(CACHE, str(tmp_path / "file"))
    loaded(configure)
    assert remembered.everything() == []
    assert remembered.forget() == 0
    assert timed


def test_all_is_forgotten(configure: Configure, cache: Path):
    """A folder of such a name is not ours."""
    loaded(configure)
    (cache / "folder.json").mkdir()
    assert remembered.forget() == 1
    assert [path.name for path in cache.iterdir()] == ["folder.json"]
