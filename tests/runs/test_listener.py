from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from polyrank.core.errors import RunFolderError
from polyrank.runs import trackers
from polyrank.runs.folder import RunFolder
from polyrank.runs.listener import Listener, Listeners, spans
from polyrank.runs.runner import run
from tests.conftest import Configure
from tests.runs.disk import files_up_to


class Diary(Listener):
    """Writes down what it is told, and raises wherever it was told to."""

    def __init__(self, *fails: str) -> None:
        self.fails, self.told = fails, list[str]()
        self.summary: Mapping[str, Any] = {}

    def note(self, what: str) -> None:
        self.told.append(what)
        if what in self.fails:
            raise ConnectionError(f"no network at {what}")

    def on_start(self, *_: object) -> None:
        self.note("start")

    def on_client(self, stage: str, done: int, total: int) -> None:
        self.note(f"{stage} {done}/{total}")

    def on_saved(self, round_number: int) -> None:
        self.note(f"saved {round_number}")

    def on_round(self, metrics: Mapping[str, Any]) -> None:
        self.note(f"round {metrics['round']}")

    def on_end(self, summary: Mapping[str, Any]) -> None:
        self.summary = summary
        self.note("end")


def told_all(*listeners: Listener) -> Listeners:
    many = Listeners(listeners)
    many.on_start(None, None)  # type: ignore[arg-type]  # a diary looks at neither
    for number in (1, 2, 3):
        many.on_client("training", 1, 1)
        many.on_saved(number)
        many.on_round({"round": number})
    many.on_end({"rounds": 3})
    return many


EVERYTHING = ["start", *(f"{w}" for n in (1, 2, 3) for w in ("training 1/1", f"saved {n}", f"round {n}")), "end"]


@pytest.mark.parametrize(
    ("fails", "missed"),
    [
        (("round 2",), "round 2"),
        (("round 1", "round 2"), "rounds 1-2"),
        (("round 1", "round 3", "end"), "rounds 1, 3, the end"),
        (("training 1/1", "saved 2"), "clients, checkpoints"),
        (("end",), "the end"),
    ],
)
def test_one_that_raises_is_named_once_and_the_others_are_told_everything(
    fails: tuple[str, ...], missed: str, caplog: pytest.LogCaptureFixture
):
    """It is tried again each time: a network that is down for a while loses what was sent meanwhile, and no more."""
    bad, good = Diary(*fails), Diary()
    many = told_all(bad, good)
    assert bad.told == good.told == EVERYTHING
    first = next(what for what in EVERYTHING if what in fails)
    expected = f"Diary: {missed} (ConnectionError: no network at {first})"
    assert many.missed() == {"not_tracked": [expected]}
    assert good.summary == {"rounds": 3, "not_tracked": [expected]}
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == [f"Diary failed, and the run goes on: ConnectionError: no network at {first}"]


def test_one_that_cannot_start_is_left_alone():
    bad, good = Diary("start"), Diary()
    assert told_all(bad, good).missed() == {"not_tracked": ["Diary: everything (ConnectionError: no network at start)"]}
    assert (bad.told, good.told) == (["start"], EVERYTHING)


def test_where_nothing_is_missed_nothing_is_said():
    good = Diary()
    assert told_all(Listeners([good])).missed() == {}
    assert good.summary == {"rounds": 3}


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_deliberate_stop_is_let_through(stop: type[BaseException]):
    class Stopper(Listener):
        def on_round(self, metrics: Mapping[str, Any]) -> None:  # noqa: ARG002  # the listener's signature
            raise stop

    with pytest.raises(stop):
        told_all(Stopper())


def test_spans():
    assert (spans([]), spans([4]), spans([1, 2, 4, 6, 7, 8])) == ("", "4", "1-2, 4, 6-8")


class Broken:
    """As accelerate's trackers, but every call for which there is an entry raises."""

    requires_logging_directory = False
    fails: tuple[str, ...] = ()

    def __init__(self, project: str) -> None:
        self.project = project

    def _call(self, name: str) -> None:
        if name in self.fails:
            raise OSError(f"{name}: quota exceeded")

    def start(self) -> None:
        self._call("start")

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:  # noqa: ARG002  # accelerate's signature
        self._call("store")

    def log(self, values: Mapping[str, Any], step: int) -> None:  # noqa: ARG002  # accelerate's signature
        self._call(f"log {step}")

    def finish(self) -> None:
        self._call("finish")


@pytest.mark.parametrize(
    ("fails", "said"),
    [
        (("start",), "wandb: everything (OSError: start: quota exceeded)"),
        (("store",), "wandb: everything (OSError: store: quota exceeded)"),
        (("log 2",), "wandb: round 2 (OSError: log 2: quota exceeded)"),
        (("finish",), "wandb: the end (OSError: finish: quota exceeded)"),
    ],
)
def test_a_run_goes_on_without_its_tracker_and_the_end_says_what_was_not_tracked(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: tuple[str, ...], said: str
):
    monkeypatch.setattr(Broken, "fails", fails)
    monkeypatch.setattr(trackers, "LOGGER_TYPE_TO_CLASS", {"wandb": Broken, "mlflow": Good})
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: ["wandb", "mlflow"])
    monkeypatch.setattr(Good, "steps", [])
    listener = Diary()
    run(configure('output.trackers=["wandb", "mlflow"]'), tmp_path, listener=listener)
    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["not_tracked"] == [said]
    assert listener.summary["not_tracked"] == [said]
    assert len(RunFolder(tmp_path).read_metrics()) == 3
    assert Good.steps == [1, 2, 3]
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()


class Good(Broken):
    """One that works."""

    requires_logging_directory = True
    steps: list[int] = []  # noqa: RUF012  # of the class, because accelerate makes the instance

    def __init__(self, project: str, logging_dir: str) -> None:
        super().__init__(project)
        self.folder = logging_dir

    def _call(self, name: str) -> None: ...

    def log(self, values: Mapping[str, Any], step: int) -> None:  # noqa: ARG002  # accelerate's signature
        self.steps.append(step)


def test_a_full_disk_under_the_run_folder_itself_is_still_an_error(configure: Configure, tmp_path: Path):
    """It is no listener's: the run stops, says so, and goes on later from what it had saved."""

    class Full(Listener):
        def on_saved(self, round_number: int) -> None:
            if round_number == 1:
                blocks.__enter__()

    blocks = files_up_to(200)
    try:
        with pytest.raises(RunFolderError, match=r"cannot be written: .*what was saved before is untouched"):
            run(configure(), tmp_path, listener=Full())
    finally:
        blocks.__exit__(None, None, None)
    summary = run(configure(), tmp_path, resume=True)
    assert summary["rounds"] == 3
    assert "not_tracked" not in summary


class Nameless(Diary):
    """Raises when it is asked what it is called, too."""

    def __str__(self) -> str:
        raise RuntimeError("no name")


def test_a_listener_that_cannot_even_say_its_name_ends_no_run(caplog: pytest.LogCaptureFixture):
    told = told_all(Nameless("round 2"), other := Diary())
    assert told.missed() == {"not_tracked": ["Nameless: round 2 (ConnectionError: no network at round 2)"]}
    assert [m for m in caplog.messages if m.startswith("Nameless failed, and the run goes on")]
    assert other.told == EVERYTHING
