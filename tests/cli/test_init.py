"""``polyrank init``: a file that says what was seen, and that runs as it stands."""

from __future__ import annotations

import csv
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from polyrank import load_config
from tests import models, writers
from tests.cli.conftest import Polyrank

ROWS = 60
HEADER = ["id", "review", "stars", "hospital"]


def rows() -> list[list[str]]:
    """Texts of the toy task in three hospitals."""
    toy = models.toy(ROWS)
    return [
        [f"{i}", text, toy.label_names[label], f"ward-{'xyz'[i % 3]}"]
        for i, (text, label) in enumerate(zip(toy.texts, toy.labels, strict=True))
    ]


def table(path: Path, header: list[str] = HEADER) -> Path:
    """The rows in a file of any kind."""
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        columns = {name: list(column) for name, column in zip(header, zip(*rows(), strict=True), strict=True)}
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(dict(zip(header, row, strict=True))) for row in rows()), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows([header, *rows()])
    return path


def written(path: str = "study.toml") -> dict[str, Any]:
    load_config(path)
    return tomllib.loads(Path(path).read_text(encoding="utf-8"))


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_columns_labels_lengths_and_clients_are_seen(polyrank: Polyrank, own_things: Path, suffix: str):
    """60 rows, a fifth of which are the test set: 48 over three hospitals."""
    table(Path(f"d.{suffix}"))
    result = polyrank("init", "--data", f"d.{suffix}", "--model", own_things / "bert")
    assert (result.code, result.err) == (0, "")
    found, text = written(), Path("study.toml").read_text(encoding="utf-8")
    assert found["task"] == {"name": "classification"}
    own = ("train", "text", "label", "partition", "column")
    assert [found["data"][key] for key in own] == [f"d.{suffix}", "review", "stars", "by-column", "hospital"]
    assert "clients" not in found["federation"]
    toy = models.toy(ROWS)
    for number, name in enumerate(toy.label_names):
        assert f"'{name}' {int((toy.labels == number).sum())}" in text
    assert f"Seen: 60 rows of 'd.{suffix}'" in text
    assert "'id': strings, 60 different ones -> not used" in text
    assert "Tokens of all training texts" in text
    assert "3 clients; training rows of each: least " in text
    assert "A client sends " in text
    for line in text.splitlines()[1:5]:
        assert line.removeprefix("# ") in result.out


def test_it_runs_as_it_stands(polyrank: Polyrank, own_things: Path):
    table(Path("d.csv"))
    assert polyrank("init", "--data", "d.csv", "-o", "own.toml", "--model", own_things / "bert").code == 0
    for command in (("data", "own.toml"), ("plan", "own.toml"), ("run", "own.toml", "--out", "run")):
        done = polyrank(*command)
        assert done.code == 0, done.err
    summary = json.loads(Path("run/summary.json").read_text())
    assert (summary["clients"], summary["rounds"]) == (3, 20)
    assert "is text" not in done.err


def test_of_a_model_that_writes(polyrank: Polyrank, writing: Path, tmp_path: Path):
    """Prompts and completions, kinds in a column of that name, and sites; the rounds are cut short."""
    writers.write(tmp_path / "own.jsonl", [{**row, "site": row["owner"]} for row in writers.pairs()])
    model = next(path.parent for path in writing.rglob("config.json"))
    made = polyrank("init", "--data", "own.jsonl", "--model", model)
    assert made.code == 0, made.err
    found = written()
    assert (found["task"]["name"], found["data"]["format"]) == ("causal-lm", "prompt")
    assert [found["data"][key] for key in ("prompt", "completion", "column")] == ["prompt", "completion", "site"]
    assert found["data"]["max_tokens"] >= 64
    done = polyrank("run", "study.toml", "--set", "federation.rounds=2", "--out", "run")
    assert done.code == 0, done.err
    assert json.loads(Path("run/summary.json").read_text())["clients"] == 3


def test_the_other_task_can_be_asked_for(polyrank: Polyrank, writing: Path):
    """Texts with labels, of which the model learns to write: labels are kinds then."""
    table(Path("d.csv"))
    model = next(path.parent for path in writing.rglob("config.json"))
    made = polyrank("init", "--data", "d.csv", "--task", "causal-lm", "--model", model)
    assert made.code == 0, made.err
    found = written()["data"]
    assert (found["format"], found["text"], found["label"]) == ("text", "review", "stars")


@pytest.mark.parametrize(("task", "data"), [("classification", "stdlib-docs"), ("causal-lm", "stdlib-signatures")])
def test_without_data_it_is_of_what_comes_along(polyrank: Polyrank, task: str, data: str):
    made = polyrank("init", "--task", task)
    assert made.code == 0, made.err
    found = written()
    assert (found["data"]["train"], found["task"]["name"]) == (data, task)
    assert found["model"]["name"] == {"classification": "quickstart", "causal-lm": "quickstart-decoder"}[task]


def test_hostile_names_are_valid_toml(polyrank: Polyrank, own_things: Path):
    """Quotation marks, lines, brackets, signs of comments and a terminal's commands in the names of columns."""
    text, label, site = 'the "te\'xt"\n[data]\nx = 1 #', "label ]\\\x1b[2J", "site\t{}='\u202e"
    table(Path("d.csv"), ["id", text, label, site])
    settings = ("--set", 'data.quoting="multiline"')
    made = polyrank("init", "--data", "d.csv", "--model", own_things / "bert", *settings)
    assert made.code == 0, made.err
    found = written()["data"]
    assert (found["text"], found["label"], found["column"]) == (text, label, site)
    assert "\x1b" not in made.out
    assert all(line.isprintable() for line in Path("study.toml").read_text(encoding="utf-8").split("\n"))
    shown = polyrank("data", "study.toml")
    assert shown.code == 0, shown.err


def test_a_name_that_toml_cannot_hold_is_refused(polyrank: Polyrank, own_things: Path):
    own = [{"te\ud83dxt": f"{text} and more", "label": label} for _, text, label, _ in rows()]
    Path("d.jsonl").write_text("\n".join(map(json.dumps, own)), encoding="utf-8")
    refused = polyrank("init", "--data", "d.jsonl", "--model", own_things / "bert")
    assert (refused.code, Path("study.toml").exists()) == (2, False)
    assert "cannot be written as TOML" in refused.err


def test_no_value_of_the_data_is_written(polyrank: Polyrank, own_things: Path):
    """But the names of labels: neither a word of a text nor the name of a client."""
    table(Path("d.csv"))
    polyrank("init", "--data", "d.csv", "--model", own_things / "bert")
    text = Path("study.toml").read_text(encoding="utf-8")
    assert "ward-" not in text
    assert not [row[1] for row in rows() if row[1] in text]


@pytest.mark.parametrize(
    ("settings", "partition", "clients"),
    [
        (("federation.clients=5",), "dirichlet", 5),
        (("data.partition=iid",), "iid", 2),
        (("data.partition=by-column",), "by-column", None),
        (("data.column=stars", "data.label=hospital"), "by-column", None),
    ],
)
def test_clients_that_are_asked_for(
    polyrank: Polyrank, own_things: Path, settings: tuple[str, ...], partition: str, clients: int | None
):
    """A number of clients is no column's; a partition of ours is not replaced, and by-column gets its column."""
    table(Path("d.csv"))
    chosen = [part for setting in settings for part in ("--set", setting)]
    made = polyrank("init", "--data", "d.csv", "--model", own_things / "bert", *chosen)
    assert made.code == 0, made.err
    found = written()
    assert (found["data"]["partition"], found["federation"].get("clients")) == (partition, clients)
    assert ("column" in found["data"]) == (partition == "by-column")


def test_what_is_asked_for_stays(polyrank: Polyrank, own_things: Path):
    table(Path("d.csv"))
    asked = {
        **{"data.text": "review", "data.partition": "iid", "data.max_tokens": 9, "data.limit_train": 40},
        **{"federation.clients": 4, "ranks.levels": [3], "training.lr": 0.5, "secure.min_owners": 3},
    }
    chosen = [part for key, value in asked.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    assert polyrank("init", "--data", "d.csv", "--model", own_things / "bert", *chosen).code == 0
    found = written()
    for key, value in asked.items():
        section, _, name = key.partition(".")
        assert found[section][name] == value
    assert "shares" not in found["ranks"]


def test_ranks_fit_the_model(polyrank: Polyrank, tmp_path: Path):
    """Layers of 8 x 8 have no rank above 8."""
    table(Path("d.csv"))
    models.save(tmp_path / "small", "bert", hidden_size=8, intermediate_size=8)
    assert polyrank("init", "--data", "d.csv", "--model", "small").code == 0
    assert written()["ranks"]["levels"] == [4, 8]


def test_clients_are_simulated_where_no_column_says_them(polyrank: Polyrank, own_things: Path):
    """48 training rows: two clients of 20 or more; what might be clients is said."""
    table(Path("d.csv"), ["id", "review", "stars", "village"])
    assert polyrank("init", "--data", "d.csv", "--model", own_things / "bert").code == 0
    found, text = written(), " ".join(Path("study.toml").read_text(encoding="utf-8").replace("\n# ", " ").split())
    assert (found["data"]["partition"], found["federation"]["clients"]) == ("dirichlet", 2)
    assert "It might be 'village' (3 values)." in text


def test_a_model_that_is_not_at_hand_is_said(polyrank: Polyrank, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("polyrank.hf.files._hub_answers", lambda: False)
    table(tmp_path / "d.csv")
    made = polyrank("init", "--data", "d.csv", "--model", "nobody/nothing")
    assert made.code == 0, made.err
    found, text = written(), Path("study.toml").read_text(encoding="utf-8").replace("\n# ", " ")
    assert (found["model"]["name"], found["data"]["max_tokens"]) == ("nobody/nothing", 256)
    assert "It is not at hand here, so no text was counted in tokens" in text
    assert "Not known: polyrank data shows how long the texts are." in text


def test_a_file_that_is_there_is_kept(polyrank: Polyrank, own_things: Path):
    table(Path("d.csv"))
    Path("study.toml").write_text("# mine\n", encoding="utf-8")
    call = ("init", "--data", "d.csv", "--model", own_things / "bert")
    refused = polyrank(*call)
    assert (refused.code, Path("study.toml").read_text()) == (2, "# mine\n")
    assert "study.toml is there already; replace it with --force" in refused.err
    assert polyrank(*call, "--force").code == 0
    assert "[data]" in Path("study.toml").read_text()
    data = Path("d.csv").read_text()
    refused = polyrank(*call, "--force", "-o", "d.csv")
    assert (refused.code, Path("d.csv").read_text()) == (2, data)
    assert "which holds the data" in refused.err


@pytest.mark.parametrize(
    ("header", "arguments", "said"),
    [
        (HEADER, ("--data", "nowhere.csv"), "no such file: nowhere.csv"),
        (HEADER, ("--task", "poetry"), "there is no task 'poetry'"),
        (HEADER, ("--model", "./nowhere"), "no such folder"),
        (HEADER, ("-o", "no/where.toml"), "no/where.toml cannot be written: No such file"),
        (HEADER, ("--set", "data.label=mood"), "has no column 'mood'"),
        (HEADER, ("--set", "data.column=town"), "has no column 'town'"),
        (HEADER, ("--set", "federation.clients=900", "--set", "data.partition=iid"), "900 clients, but only 48"),
        (["id", "site", "user", "hospital"], ("--task", "classification"), "looks like texts; columns found: 'id', 's"),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_written(
    polyrank: Polyrank, own_things: Path, header: list[str], arguments: tuple[str, ...], said: str
):
    table(Path("d.csv"), header)
    call = {"--data": "d.csv", "--model": str(own_things / "bert")}
    own = [part for option, value in call.items() if option not in arguments for part in (option, value)]
    result = polyrank("init", *own, *arguments)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
    assert result.err.count("\n") == 1
    assert not Path("study.toml").exists()


def test_texts_without_labels_are_asked_about(polyrank: Polyrank, own_things: Path, tmp_path: Path):
    (tmp_path / "d.csv").write_text("\n".join(["text", *(row[1] for row in rows())]), encoding="utf-8")
    refused = polyrank("init", "--data", "d.csv", "--task", "classification", "--model", own_things / "bert")
    assert refused.code == 2
    assert "looks like labels; columns found: 'text'. Name it: --set data.label=COLUMN" in refused.err
