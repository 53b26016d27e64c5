"""``polyrank data``: what is recognised, marked, cut and left out, for both tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import writers
from tests.cli.conftest import Polyrank

TURNS = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "What colour is the apple?"},
    {"role": "assistant", "content": "red"},
    {"role": "user", "content": "What colour is the house?"},
    {"role": "assistant", "content": "blue"},
]


def told(polyrank: Polyrank, writing: Path, *settings: str) -> dict[str, Any]:
    chosen = [part for setting in settings for part in ("--set", setting)]
    result = polyrank("data", writing / "study.toml", *chosen, "--json")
    assert result.code == 0, result.err
    found: dict[str, Any] = json.loads(result.out)
    return found


def test_trained_tokens_are_marked(polyrank: Polyrank, writing: Path):
    """48 rows, of which a fifth, rounded up, is the test set; what is between the marks is the answer and its end."""
    shown = polyrank("data", writing / "study.toml")
    assert shown.code == 0, shown.err
    assert "task causal-lm" in shown.out
    assert "template chat; begin token '<s>'; stop token '<|im_end|>'" in shown.out
    assert "format prompt, columns: prompt + completion" in shown.out
    assert "\x1b" not in shown.out
    found = told(polyrank, writing)
    for name in ("train", "test"):
        pieces = found["sets"][name]["example"]["pieces"]
        assert [piece["trained"] for piece in pieces] == [False, True]
        row = writers.pairs()[found["sets"][name]["example"]["row"] - 1]
        assert pieces[0]["text"] == f"<s><|im_start|>user\n{row['prompt']}<|im_end|>\n<|im_start|>assistant\n"
        assert pieces[1]["text"] == f"{row['completion']}<|im_end|>"
        assert f"⟦{row['completion']}<|im_end|>⟧" in shown.out
    assert found["sets"]["train"]["rows"] + found["sets"]["test"]["rows"] == 48
    assert found["clients"]["number"] == 3


def test_numbers_are_those_of_the_rows(polyrank: Polyrank, writing: Path):
    """Under no template a row is its begin token, its prompt, its completion and its end token."""
    found = told(polyrank, writing, "data.template=none", "data.test_share=0.5", "data.max_tokens=64")
    tokenizer = writers.tokenizer()
    longest = max(
        len(tokenizer(row["prompt"])["input_ids"])
        + len(tokenizer(row["completion"], add_special_tokens=False)["input_ids"])
        + 1
        for row in writers.pairs()
    )
    trained = max(
        len(tokenizer(row["completion"], add_special_tokens=False)["input_ids"]) + 1 for row in writers.pairs()
    )
    assert longest in {found["sets"][name]["tokens"]["longest"] for name in ("train", "test")}
    assert trained in {found["sets"][name]["trained_tokens"]["longest"] for name in ("train", "test")}
    assert found["sets"]["train"]["labels"] == {"say": 12, "what": 12}
    assert (found["begin_token"], found["stop_token"], found["sets"]["train"]["cut"]) == ("<s>", "</s>", 0)


def test_what_is_left_out_is_counted_by_reason_and_client(polyrank: Polyrank, writing: Path):
    """At 8 tokens an answer of 7 or more and its end leave no place for the begin token."""
    settings = ("data.template=none", "data.max_tokens=8")
    found = told(polyrank, writing, *settings)
    train, clients = found["sets"]["train"], found["clients"]
    (reason,) = train["left_out"]
    assert "longer than data.max_tokens" in reason
    assert train["left_out"][reason] == sum(sum(own.values()) for own in clients["left_out"].values()) > 0
    assert train["examples"] + train["left_out"][reason] == train["rows"]
    shown = polyrank("data", writing / "study.toml", *(part for setting in settings for part in ("--set", setting))).out
    assert f"{train['left_out'][reason]} rows left out: {reason}" in shown
    for client, own in clients["left_out"].items():
        assert f"{client} {sum(own.values())}" in shown


def test_a_client_of_which_nothing_is_left_is_named(polyrank: Polyrank, writing: Path, tmp_path: Path):
    """The run is refused, and this command still shows everything."""
    rows = [{**row, "completion": "red " * 60} if row["owner"] == "site-2" else row for row in writers.pairs()]
    file = writers.write(tmp_path / "long.jsonl", rows)
    chosen = ("--set", f"data.train={file}", "--set", "data.template=none")
    shown = polyrank("data", writing / "study.toml", *chosen)
    assert shown.code == 0, shown.err
    assert "nothing is left of 1 clients, so that a run is refused: site-2" in shown.out
    refused = polyrank("run", writing / "study.toml", *chosen, "--out", "run")
    assert (refused.code, Path("run").exists()) == (2, False)
    assert "1 client(s) have no example left, site-2 for one" in refused.err


@pytest.mark.parametrize(
    ("form", "row", "columns"),
    [
        ("text", {"text": "The apple is red."}, ["text"]),
        ("prompt", {"instruction": "Say it:", "input": "red", "output": "red"}, ["instruction", "input", "output"]),
        ("messages", {"messages": TURNS}, ["messages"]),
        (
            "conversations",
            {"conversations": [{"from": turn["role"], "value": turn["content"]} for turn in TURNS]},
            ["conversations"],
        ),
    ],
)
def test_formats(  # noqa: PLR0917  # fixtures and parameters
    polyrank: Polyrank, writing: Path, tmp_path: Path, form: str, row: dict[str, Any], columns: list[str]
):
    """Each is recognised by its columns; of turns every answer is trained; a whole text needs no template."""
    file = writers.write(tmp_path / "own.jsonl", [{**row, "owner": f"site-{i % 3}"} for i in range(20)])
    own = [f"data.train={file}", "data.label=", "data.max_tokens=120", "task.name=causal-lm"]
    found = told(polyrank, writing, *own)
    train = found["sets"]["train"]
    assert (train["format"], train["columns"], found["task"]) == (form, columns, "causal-lm")
    learned = [piece["text"] for piece in train["example"]["pieces"] if piece["trained"]]
    expected = {
        "text": ["The apple is red.</s>"],
        "prompt": ["red<|im_end|>"],
    }
    assert learned == expected.get(form, ["red<|im_end|>", "blue<|im_end|>"])
    assert found["template"] == ("none" if form == "text" else "chat")


def test_of_classification(polyrank: Polyrank, own_things: Path):
    """60 rows of two labels; nothing is marked, since labels are learned and no tokens."""
    shown = polyrank("data", own_things / "study.toml")
    assert shown.code == 0, shown.err
    assert "task classification" in shown.out
    assert "columns: review" in shown.out
    assert "⟦" not in shown.out
    found = json.loads(polyrank("data", own_things / "study.toml", "--set", "data.max_tokens=6", "--json").out)
    assert set(found["sets"]["train"]["labels"]) == {"pets", "fruit"}
    assert sum(found["sets"]["train"]["labels"].values()) == 48
    assert found["sets"]["train"]["cut"] > 0
    assert found["sets"]["train"]["tokens"]["longest"] == 6
    assert found["clients"]["examples"] == {"least": 12, "median": 12, "most": 12}


def test_commands_of_a_terminal_are_not_passed_on(polyrank: Polyrank, writing: Path, tmp_path: Path):
    rows = [{**row, "prompt": f"\x1b[31m{row['prompt']}"} for row in writers.pairs()]
    file = writers.write(tmp_path / "red.jsonl", rows)
    shown = polyrank("data", writing / "study.toml", "--set", f"data.train={file}")
    assert shown.code == 0, shown.err
    assert "\x1b" not in shown.out
