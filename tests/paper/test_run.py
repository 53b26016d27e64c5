"""A study of a tiny model runs, is kept, and goes on; nothing here is timed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from paper.studies import TABLES, Study

from paper import archive, run
from paper import tables as paper_tables
from polyrank.quickstart import stdlib_docs

FEW = ("data.limit_train=300", "data.limit_test=40", "federation.clients=4", "federation.participation=0.5")
SMALL = (*FEW, "federation.rounds=2", "ranks.policy=random", "ranks.shares=[0.5, 0.5]", "training.workers=1")
STUDY = Study("tiny", "quickstart", ("replication", "zero_padding"), (*SMALL, "training.precision=float32"), (0, 1))


def arguments(tmp_path: Path) -> list[str]:
    return ["made-up", "--work", str(tmp_path / "work"), "--results", str(tmp_path)]


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch):
    for module in (run, paper_tables):
        monkeypatch.setattr(module, "TABLES", {"made-up": [STUDY]})


@pytest.mark.usefixtures("tables")
def test_a_study_in_pieces_is_the_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The first call ends before its first run, for want of time; the third, in another folder, makes what is left."""
    run.main([*arguments(tmp_path), "--minutes", "0", "--seeds", "0"])
    assert "not complete yet" in capsys.readouterr().out
    run.main([*arguments(tmp_path), "--show"])  # nor does it run anything
    path = tmp_path / "made-up.jsonl"
    assert not path.is_file()
    run.main([*arguments(tmp_path), "--seeds", "0"])
    first = path.read_text(encoding="utf-8")
    assert len(first.splitlines()) == 2
    run.main([*arguments(tmp_path)[:1], "--work", str(tmp_path / "elsewhere"), "--results", str(tmp_path)])
    out = capsys.readouterr().out
    assert path.read_text(encoding="utf-8").startswith(first)
    assert [name.split("/")[1:3] for name in archive.load(path)] == [
        *(["replication", "seed-0"], ["zero_padding", "seed-0"]),
        *(["replication", "seed-1"], ["zero_padding", "seed-1"]),
    ]
    assert "| replication |" in out
    assert "not complete" not in out


@pytest.mark.usefixtures("tables")
def test_an_archived_run_is_what_it_was_and_names_no_local_path(tmp_path: Path):
    run.main([*arguments(tmp_path), "--seeds", "0"])
    path = tmp_path / "made-up.jsonl"
    assert str(tmp_path) not in path.read_text(encoding="utf-8")
    line = next(iter(archive.load(path).values()))
    restored = archive.restore(line)
    metrics = tmp_path / "work" / "made-up" / "tiny" / "replication" / "seed-0" / "metrics.jsonl"
    lines = [json.loads(text) for text in metrics.read_text(encoding="utf-8").splitlines()]
    assert restored.values == pytest.approx([one["test/accuracy"] for one in lines], rel=1e-5)
    assert restored.traffic == [
        sum(one["bytes/up"] + one["bytes/down"] for one in lines[: i + 1]) for i in range(len(lines))
    ]
    assert restored.config.aggregation.method == "replication"


def test_a_run_of_two_studies_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The second study has one method more than the first: only that one runs."""
    wider = Study("wider", "quickstart", (*STUDY.methods, "tempered"), STUDY.overrides, (0,))
    for module in (run, paper_tables):
        monkeypatch.setattr(module, "TABLES", {"made-up": [STUDY], "other": [wider]})
    run.main([*arguments(tmp_path), "--seeds", "0"])
    made: list[str] = []
    monkeypatch.setattr(run, "compare", lambda planned, *_, **__: made.append(planned[0].entry.name) or [1 / 0])
    with pytest.raises(ZeroDivisionError):
        run.main(["other", *arguments(tmp_path)[1:]])
    assert made == ["tempered"]
    first, second = (archive.load(tmp_path / f"{table}.jsonl") for table in ("made-up", "other"))
    assert [name.partition("/")[2] for name in first] == [name.partition("/")[2] for name in second]
    assert [line["lines"] for line in first.values()] == [line["lines"] for line in second.values()]


def test_local_paths_become_names(tmp_path: Path):
    for name in ("train.csv", "test.csv"):
        file = tmp_path / "ag_news" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("text,label\n", encoding="utf-8")
    config = run.load_config("ag_news", (), str(tmp_path / "MiniLM"), tmp_path)
    portable = archive._portable(config, resolved=True)
    assert (portable["model"]["name"], portable["data"]["train"]) == ("MiniLM", "ag_news/train.csv")


def test_a_run_is_known_by_what_decides_its_result():
    """Engine, precision and output do not count; seed, rounds, method and rate do."""
    from polyrank.config import load

    base = archive.key("s", "n", load())
    for same in ("training.engine=sequential", "training.precision=float32", "output.project=mine"):
        assert archive.key("s", "n", load(None, [same])) == base
    for other in ("federation.seed=1", "federation.rounds=3", "training.lr=1e-4", "aggregation.method=flora"):
        assert archive.key("s", "n", load(None, [other])) != base


def test_the_archive_holds_the_runs_that_the_readme_shows():
    """Else `python -m paper.run quickstart` would measure them anew; new keys of the configuration belong in LATER."""
    kept = archive.load(paper_tables.RESULTS / "quickstart.jsonl")
    (study,) = TABLES["quickstart"]
    config = run.load_config(study.data, study.overrides, None, None)
    wanted = [archive.key(study.name, entry.name, entry.seeded(seed)) for entry, seed in run.planned(study, config)]
    assert len(wanted) == 21
    assert set(wanted) <= kept.keys()


@pytest.mark.usefixtures("tables")
def test_a_run_on_other_data_is_not_put_beside_those_of_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """As under another Python, whose docstrings are others; of an older line, which does not say, it is said."""
    run.main([*arguments(tmp_path), "--seeds", "0"])
    path = tmp_path / "made-up.jsonl"
    lines = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
    assert lines[0]["digests"]["training texts"] == lines[1]["digests"]["training texts"]
    documents = stdlib_docs.split()
    with monkeypatch.context() as patch:
        patch.setattr(stdlib_docs, "split", lambda: (documents[0][1:], documents[1]))
        with pytest.raises(
            SystemExit, match=r"tiny/replication/seed-0/\w+ was measured on other data .*training texts"
        ):
            run.main(arguments(tmp_path))
    assert len(archive.load(path)) == 2
    path.write_text("".join(json.dumps(line | {"digests": None}) + "\n" for line in lines), encoding="utf-8")
    run.main([*arguments(tmp_path), "--minutes", "1e-9"])
    assert "tiny: 2 runs were kept without a digest of data and model" in capsys.readouterr().out
