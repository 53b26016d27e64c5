"""Data, models and settings that a model cannot learn to write with: one line, exit code 2, and nothing is lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import models, writers
from tests.cli.conftest import Polyrank

PAIR = {"prompt": "Hi", "completion": "red", "owner": "site-0"}


def says(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def messages(*turns: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of three owners; the second one is of these turns, the others are in order."""
    good = [says("user", "Hi"), says("assistant", "red")]
    return [{"messages": list(turns) if i == 1 else good, "owner": f"site-{i % 3}"} for i in range(12)]


def rows(*changed: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of three owners, of which the first ones are changed."""
    return [{**PAIR, "owner": f"site-{i % 3}", **(changed[i] if i < len(changed) else {})} for i in range(12)]


def encoder(folder: Path) -> str:
    return f"model.name={models.save(folder / 'bert', 'bert')}"


def seq2seq(folder: Path) -> str:
    return f"model.name={models.save(folder / 't5', 't5')}"


def large_tokenizer(folder: Path) -> str:
    return f"model.name={writers.save(folder / 'small', vocab_size=writers.WORDS - 20)}"


def without_template(folder: Path) -> str:
    return f"model.name={writers.save(folder / 'bare', chat=False)}"


def without_tokenizer(folder: Path) -> str:
    path = writers.save(folder / "mute")
    for file in path.glob("tokenizer*"):
        file.unlink()
    return f"model.name={path}"


MODELS: dict[str, tuple[Callable[[Path], str], str]] = {
    "an encoder": (encoder, "a bert is an encoder; expected a decoder, such as a Llama"),
    "an encoder-decoder": (seq2seq, "is an encoder with a decoder; expected a decoder"),
    "a tokenizer larger than the embeddings": (large_tokenizer, "and the model has 300 embeddings"),
    "no tokenizer": (without_tokenizer, "tokenizer"),
}
DATA: dict[str, tuple[list[dict[str, Any]], str]] = {
    "a last role that is not the assistant's": (
        messages(says("user", "Hi"), says("assistant", "red"), says("user", "Why?")),
        "in 'messages' whose last turn is the user's, so that there is no answer to learn, at row 2",
    ),
    "no list of turns": (messages(), "that is no list of turns, or an empty one, at row 2"),
    "an unknown role": (
        messages(says("user", "Hi"), says("bot", "red")),
        "a turn whose role is 'bot', expected one of",
    ),
    "an answer of turns that is empty": (
        messages(says("user", "Hi"), says("assistant", "  ")),
        "with an empty answer, at row 2",
    ),
    "a late system turn": (
        messages(says("user", "Hi"), says("system", "Now"), says("assistant", "red")),
        "with a system turn that is not the first, at row 2",
    ),
    "two of one role": (
        messages(says("user", "Hi"), says("user", "Hi"), says("assistant", "red")),
        "user and assistant do not take turns, the user first, at row 2",
    ),
    "a content that is no text": (
        messages(says("user", [{"type": "image_url", "image_url": "x"}]), says("assistant", "red")),
        "with a turn whose content is not text, at row 2",
    ),
    "empty answers": (
        rows({"completion": ""}, {}, {"completion": None}, {"completion": " "}),
        "3 row(s) with an empty answer in 'completion', at row 1, 3, 4",
    ),
    "an empty prompt": (rows({}, {"prompt": ""}), "1 row(s) with an empty prompt in 'prompt', at row 2"),
    "an answer that is a number": (rows(*[{"completion": 3}] * 12), "an answer in 'completion' that is"),
}
SETTINGS: dict[str, tuple[list[str], str]] = {
    "Dirichlet without kinds": (
        ["data.partition=dirichlet", "data.label="],
        "needs a label for every text, and",
    ),
    "quality groups without kinds": (["data.partition=quality-groups", "data.label="], "needs a label for every text"),
    "no room for the template": (
        ["data.max_tokens=12"],
        "data.max_tokens is 12; the template and the end token around",
    ),
    "no room for anything": (["data.max_tokens=1"], "data.max_tokens is 1"),
    "a template without a place": (["data.template=Q:"], "expected 'chat', 'none', or a text with {prompt}"),
    "a head of classifiers": (["model.head=mean-pool"], "a head of classifiers"),
    "a column that is not there": (["data.completion=answers"], "has no column 'answers'"),
    "no such format": (["data.format=turns"], "data.format"),
}


@pytest.fixture
def refused(polyrank: Polyrank, writing: Path, written: Path, tmp_path: Path) -> Callable[..., None]:
    """``refused(words, "data.max_tokens=1")``: in a folder with a finished run, which stays as it is."""

    def contents(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def check(words: str, *settings: str) -> None:
        chosen = [part for setting in settings for part in ("--set", setting)]
        kept = tmp_path / "kept"
        shutil.copytree(written, kept, dirs_exist_ok=True)
        result = polyrank("run", writing / "study.toml", *chosen, "--out", kept, "--overwrite")
        assert result.code == 2, result
        assert words in result.err, result.err
        assert len(result.err.strip().splitlines()) == 1, result.err
        assert contents(kept) == contents(written)

    return check


@pytest.mark.parametrize("case", MODELS)
def test_models(refused: Callable[..., None], tmp_path: Path, case: str):
    make, words = MODELS[case]
    refused(words, make(tmp_path))


@pytest.mark.parametrize("case", DATA)
def test_data(refused: Callable[..., None], tmp_path: Path, case: str):
    made, words = DATA[case]
    refused(words, f"data.train={writers.write(tmp_path / 'own.jsonl', made)}", "data.label=", "task.name=causal-lm")


@pytest.mark.parametrize("case", SETTINGS)
def test_settings(refused: Callable[..., None], case: str):
    settings, words = SETTINGS[case]
    refused(words, *settings)


def test_turns_without_a_template(refused: Callable[..., None], tmp_path: Path):
    """One exchange can be written plainly; several need to be told apart, which only a template does."""
    several = messages(*[says("user", "Hi"), says("assistant", "red")] * 2)
    file = writers.write(tmp_path / "own.jsonl", several)
    bare = without_template(tmp_path)
    refused(
        "own.jsonl, row 2 cannot be written with data.template 'none': it has several answers",
        bare,
        f"data.train={file}",
        "data.label=",
    )
    refused("data.template is 'chat', and the model's tokenizer has no chat template", bare, "data.template=chat")
