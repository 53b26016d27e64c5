from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from safetensors import SafetensorError

from polyrank import config as configuration
from polyrank.config import Config
from polyrank.core.errors import RunFolderError
from polyrank.core.machine import about_this_machine
from polyrank.runs.agreement import Asked
from polyrank.runs.folder import (
    OWN_FILES,
    OWN_FOLDERS,
    RunFolder,
    disk_errors,
)
from tests.runs.disk import files_up_to, no_space


@pytest.fixture
def old(tmp_path: Path) -> RunFolder:
    """A folder that holds a run, and a file that is not the run's."""
    folder = RunFolder(tmp_path / "run")
    folder.create(overwrite=False)
    for name in OWN_FILES:
        (folder.path / name).write_text("old", encoding="utf-8")
    for name in OWN_FOLDERS:
        (folder.path / name).mkdir()
        (folder.path / name / "round-00025").write_text("old", encoding="utf-8")
    (folder.path / "notes.txt").write_text("mine", encoding="utf-8")
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text(encoding="utf-8") for p in folder.rglob("*") if p.is_file()}


def test_a_new_folder_is_made_with_its_parents(tmp_path: Path):
    folder = RunFolder(tmp_path / "deep" / "run")
    folder.create(overwrite=False)
    assert folder.path.is_dir()
    assert not folder.exists()
    folder.create(overwrite=False)  # an empty folder is free


def test_another_run_is_kept_unless_told_otherwise(old: RunFolder):
    before = contents(old.path)
    with pytest.raises(RunFolderError, match="holds another run; continue it with --resume, replace it with --overw"):
        old.create(overwrite=False)
    assert contents(old.path) == before


def test_a_run_is_replaced_and_nothing_else(old: RunFolder):
    old.create(overwrite=True)
    assert contents(old.path) == {"notes.txt": "mine"}
    assert [path.name for path in old.path.iterdir()] == ["notes.txt"]


def test_a_run_that_was_replaced_by_half_can_be_replaced(old: RunFolder, monkeypatch: pytest.MonkeyPatch):
    """config.toml is what makes it a run folder, so it goes last."""
    real = Path.unlink

    def unlink(path: Path, *, missing_ok: bool = False) -> None:
        if path.name == "clients.json":
            raise PermissionError(errno.EACCES, "Permission denied")
        real(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        with pytest.raises(RunFolderError, match="Permission denied"):
            old.create(overwrite=True)
    assert old.exists()
    old.create(overwrite=True)
    assert contents(old.path) == {"notes.txt": "mine"}


def test_a_checkpoint_that_cannot_be_deleted_is_an_error(old: RunFolder, monkeypatch: pytest.MonkeyPatch):
    """Its round 25 would pass for one of the new run, and the new run's round 0 would be deleted as the older one."""

    def rmtree(path: Path, ignore_errors: bool = False) -> None:  # shutil's signature
        if not ignore_errors:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("shutil.rmtree", rmtree)
    with pytest.raises(RunFolderError, match="cannot be written: Permission denied"):
        old.create(overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_other_things_is_never_touched(tmp_path: Path, overwrite: bool):  # a parameter
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    for path in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(RunFolderError, match="exists and is no run folder; choose another folder with --out"):
            RunFolder(path).create(overwrite=overwrite)
    assert contents(tmp_path) == {"thesis.txt": "mine"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_a_killed_run_left_of_its_first_file_is_no_hindrance(tmp_path: Path, overwrite: bool):  # a parameter
    """Killed, or out of space, while config.toml was written: neither --resume nor --overwrite could use the folder."""
    (tmp_path / ".config.toml.writing").write_text("[mod")
    RunFolder(tmp_path).create(overwrite=overwrite)
    assert contents(tmp_path) == {}
    (tmp_path / ".config.toml.writing").write_text("[mod")
    (tmp_path / ".thesis.txt.writing").write_text("mine")
    with pytest.raises(RunFolderError, match="exists and is no run folder"):
        RunFolder(tmp_path).create(overwrite=overwrite)
    assert len(contents(tmp_path)) == 2


def test_what_half_a_write_left_goes_with_the_run_that_is_replaced(old: RunFolder):
    (old.path / ".metrics.jsonl.writing").write_text("x")
    old.create(overwrite=True)
    assert not (old.path / ".metrics.jsonl.writing").exists()


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(RunFolderError, match="cannot be written: Not a directory") as error:
        RunFolder(tmp_path / "file" / "run").create(overwrite=False)
    assert "\n" not in str(error.value)


def test_configuration_and_json_come_back(tmp_path: Path):
    folder = RunFolder(tmp_path)
    asked = Asked(configuration.load(overrides=["data.limit_train=9"]), Config())
    folder.write_config(asked)
    folder.write_json("run", {"labels": ["a", "é"], "head_modules": ["classifier"], "x": [1, None, 0.1]})
    assert folder.read_config() == Config()
    assert folder.read_asked() == asked
    assert folder.read_json("run")["x"] == [1, None, 0.1]
    target = folder.target()
    assert (target.model, target.labels, target.head_modules) == (Config().model, ("a", "é"), ("classifier",))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.toml", "requested.toml", "run.json"]


def test_what_is_no_run_folder_is_said(tmp_path: Path):
    folder = RunFolder(tmp_path)
    with pytest.raises(RunFolderError, match="is no run folder: it has no config"):
        folder.read_config()
    with pytest.raises(RunFolderError, match=r"summary\.json cannot be read: .*No such file.*; is .* a run folder\?"):
        folder.read_json("summary")
    (tmp_path / "summary.json").write_text("{", encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"summary\.json cannot be read"):
        folder.read_json("summary")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = RunFolder(tmp_path)
    folder.write_json("summary", {"rounds": 1})

    def replace(*_: object) -> None:
        raise no_space()

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(RunFolderError, match=r"summary\.json cannot be written: No space left on device; what was sav"):
        folder.write_json("summary", {"rounds": 2})
    assert contents(tmp_path) == {"summary.json": '{\n "rounds": 1\n}\n'}


def test_a_first_write_that_fails_leaves_a_folder_that_can_be_used(tmp_path: Path):
    """A half-written temporary file would make it a folder with other things."""
    folder = RunFolder(tmp_path / "run")
    folder.create(overwrite=False)
    with files_up_to(100), pytest.raises(RunFolderError, match=r"config\.toml cannot be written: File too large"):
        folder.write_config(Asked(Config(), Config()))
    folder.create(overwrite=False)


def test_metrics_are_lines_of_json(tmp_path: Path):
    folder = RunFolder(tmp_path)
    assert folder.read_metrics() == []
    for number in (1, 2, 3):
        folder.append_metrics({"round": number, "clients": ["a\u2028b"]})
    assert [json.loads(line)["round"] for line in folder.metrics.read_text(encoding="utf-8").split("\n")[:-1]] == [
        1,
        2,
        3,
    ]
    assert folder.read_metrics()[2] == {"round": 3, "clients": ["a\u2028b"]}


def test_a_line_that_a_crash_cut_off_is_left_out_and_then_replaced(tmp_path: Path):
    folder = RunFolder(tmp_path)
    for number in (1, 2):
        folder.append_metrics({"round": number})
    with folder.metrics.open("a", encoding="utf-8") as file:
        file.write('{"round": 3, "test/acc')
    assert [line["round"] for line in folder.read_metrics()] == [1, 2]
    folder.write_metrics(folder.read_metrics())
    folder.append_metrics({"round": 3})
    assert [line["round"] for line in folder.read_metrics()] == [1, 2, 3]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"round": 2}\n', 1),
        ('{"round": 1}\n{"round": 3}\n', 2),
        ('{"round": 1}\n{"round": 1}\n', 2),
        ('{"round": 1}\nno json\n{"round": 3}\n', 2),
        ("[]\n", 1),
        ("{}\n", 1),
    ],
)
def test_metrics_that_were_changed_by_hand_are_refused(tmp_path: Path, text: str, line: int):
    folder = RunFolder(tmp_path)
    folder.metrics.write_text(text)
    with pytest.raises(RunFolderError, match=rf"metrics\.jsonl, line {line}: expected what .* in round {line}"):
        folder.read_metrics()


def test_json_that_is_no_object_is_damaged(tmp_path: Path):
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(RunFolderError, match=r"run\.json holds a list; expected an object"):
        RunFolder(tmp_path).read_json("run")


def test_a_folder_of_an_earlier_version_is_not_taken_on_trust(tmp_path: Path):
    """It says neither what was asked for nor what its data held, so nothing can be compared with either."""
    folder = RunFolder(tmp_path)
    folder.write_config(Asked(Config(), Config()))
    (tmp_path / "requested.toml").unlink()
    folder.write_json("run", {"labels": ["a", "b"], "head_modules": []})
    assert folder.read_config() == Config()
    with pytest.raises(RunFolderError, match=r"an earlier PolyRank, which did not keep what was asked for .*--out"):
        folder.read_asked()
    with pytest.raises(RunFolderError, match=r"an earlier PolyRank, which did not keep what its data and model held"):
        folder.record()


@pytest.mark.parametrize("error", [no_space(), SafetensorError("I/O error: No space left on device (os error 28)")])
def test_what_went_wrong_on_disk_is_one_line(tmp_path: Path, error: Exception):
    def write() -> None:
        with disk_errors(tmp_path / "adapter"):
            raise error

    with pytest.raises(
        RunFolderError, match=r"adapter cannot be written: .*No space left on device.*--resume"
    ) as found:
        write()
    assert "\n" not in str(found.value)


def test_the_machine_is_on_record():
    about = about_this_machine()
    assert json.loads(json.dumps(about)) == about
    assert about["versions"]["torch"]
    assert about["threads"] >= 1
