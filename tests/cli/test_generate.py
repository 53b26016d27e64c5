"""``polyrank generate``: a run, its adapter, plain PEFT and the merged model answer the same."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from polyrank.core.errors import PolyRankError
from polyrank.runs.trained import find, openings
from tests import writers
from tests.cli.conftest import Polyrank

ASKED = ("What colour is the apple?", "Hi", "Say it: the stone of number 7 is black, and the river is not.")


def answered(polyrank: Polyrank, *arguments: str | Path) -> list[dict[str, Any]]:
    result = polyrank("generate", *arguments, "--max-tokens", "10", "--json")
    assert result.code == 0, result.err
    found: list[dict[str, Any]] = json.loads(result.out)
    return found


@pytest.fixture
def asked() -> list[str]:
    return [part for prompt in ASKED for part in ("--prompt", prompt)]


def test_the_same_from_a_run_its_adapter_plain_peft_and_the_merged_model(
    polyrank: Polyrank, written: Path, writing: Path, asked: list[str], tmp_path: Path
):
    own = answered(polyrank, written, *asked, "--base")
    assert [one["prompt"] for one in own] == list(ASKED)
    assert any(one["answer"] != one["base"]["answer"] for one in own)
    bare = [{key: value for key, value in one.items() if key != "base"} for one in own]
    assert answered(polyrank, written / "adapter", *asked) == bare
    plain = tmp_path / "plain"
    shutil.copytree(written / "adapter", plain)
    (plain / "polyrank.json").unlink()
    assert answered(polyrank, plain, *asked) == bare
    bald = writers.save(tmp_path / "bald", chat=False)  # as a base whose adapter brought its template
    assert answered(polyrank, plain, *asked, "--model", bald) == bare
    assert polyrank("export", written, "--merged", "-o", tmp_path / "merged").code == 0
    assert answered(polyrank, tmp_path / "merged", *asked) == bare
    assert answered(polyrank, writing / "llama", *asked) == [{"prompt": one["prompt"], **one["base"]} for one in own]
    for prompt, one in zip(ASKED, bare, strict=True):
        assert answered(polyrank, written, "--prompt", prompt) == [one]


def test_a_base_that_was_moved_is_named(polyrank: Polyrank, written: Path, writing: Path, tmp_path: Path):
    """The adapter says where it was; --model says where it is."""
    moved, adapter = tmp_path / "moved", tmp_path / "adapter"
    shutil.copytree(writing / "llama", moved)
    shutil.copytree(written / "adapter", adapter)
    ours = json.loads((adapter / "polyrank.json").read_text(encoding="utf-8"))
    ours["model"]["name"] = "/somewhere/else"
    (adapter / "polyrank.json").write_text(json.dumps(ours), encoding="utf-8")
    lost = polyrank("generate", adapter, "--prompt", "Hi")
    assert (lost.code, "there is no such folder" in lost.err) == (2, True)
    expected = answered(polyrank, written, "--prompt", "Hi")
    assert answered(polyrank, adapter, "--prompt", "Hi", "--model", moved) == expected
    assert answered(polyrank, written, "--prompt", "Hi", "--model", moved) == expected


def test_how_it_is_shown(polyrank: Polyrank, written: Path, asked: list[str], tmp_path: Path, monkeypatch):
    """One answer stands alone; several under their prompts; lines of a file are prompts, and so are those of a pipe."""
    expected = answered(polyrank, written, *asked)
    alone = polyrank("generate", written, "-p", ASKED[0], "--max-tokens", "10")
    assert alone.out.startswith(expected[0]["answer"][:1])
    assert ">" not in alone.out.splitlines()[0] or ">" in expected[0]["answer"]
    assert "answers were cut at 10 tokens" in alone.err or not expected[0]["cut"]
    both = polyrank("generate", written, *asked, "--base", "--max-tokens", "10").out
    assert both.count("trained: ") == both.count("base: ") == 3
    for prompt in ASKED:
        assert f"> {prompt}" in both
    file = tmp_path / "prompts.txt"
    file.write_text("\ufeff" + "\n\n".join(ASKED) + "\n", encoding="utf-8")
    assert answered(polyrank, written, "--file", file) == expected
    blank = polyrank("generate", written, "--file", file, "--max-tokens", "1").err
    assert f"2 of 5 lines of {file} are blank" in blank.replace("\n", "")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(ASKED).encode())))
    assert answered(polyrank, written, "--file", "-") == expected


def test_drawn_answers_follow_the_seed(polyrank: Polyrank, written: Path, asked: list[str]):
    drawn = ("--temperature", "1.5", "--seed", "1")
    first = answered(polyrank, written, *asked, *drawn)
    assert answered(polyrank, written, *asked, *drawn) == first
    assert answered(polyrank, written, "--prompt", ASKED[1], *drawn) == first[1:2]
    assert answered(polyrank, written, *asked, "--temperature", "1.5", "--seed", "2") != first


@pytest.mark.parametrize(
    ("template", "chat", "opening"),
    [
        (
            "chat",
            True,
            "<s><|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        ),
        ("none", True, "<s>Be short.\n\nHi"),
        ("Q: {prompt} A: ", False, "<s>Q: Be short.\n\nHi A: "),
    ],
)
def test_prompts_stand_under_the_template_of_the_training(tmp_path: Path, template: str, chat: bool, opening: str):
    """The adapter folder carries it; there is one begin token, whoever writes it."""
    from polyrank import config
    from polyrank.runs.runner import run

    study = writers.study(tmp_path, chat=chat)
    chosen = config.load(study / "study.toml", [f'data.template="{template}"', "federation.rounds=1"])
    run(chosen, tmp_path / "run")
    for path in (tmp_path / "run", tmp_path / "run" / "adapter"):
        found = find(path)
        assert found.task.template == template
        resident = found.resident()
        (ids,) = openings(found, resident, ["Hi"], "Be short.")
        assert resident.base.tokenizer.decode(ids) == opening
        assert ids.count(resident.base.tokenizer.bos_token_id) == 1


def test_a_tokenizer_that_got_a_template_since(tmp_path: Path):
    """What was resolved in the training counts, and not what ``auto`` would be now."""
    from polyrank import config
    from polyrank.runs.runner import run

    study = writers.study(tmp_path, chat=False)
    run(config.load(study / "study.toml", ["federation.rounds=1"]), tmp_path / "run")
    writers.tokenizer(chat=True).save_pretrained(study / "llama")
    found = find(tmp_path / "run" / "adapter")
    (ids,) = openings(found, found.resident(), ["Hi"], None)
    assert found.resident().base.tokenizer.decode(ids) == "<s>Hi"
    with pytest.raises(PolyRankError, match=r"the base .* changed since the run was made: chat template were"):
        find(tmp_path / "run")


def test_what_is_no_model_that_writes(
    polyrank: Polyrank, written: Path, classified: Path, own_things: Path, tmp_path: Path
):
    """Each is one line, and says what to do."""
    shared = tmp_path / "shared"
    shutil.copytree(written, shared)
    (tmp_path / "empty").mkdir()
    strange = tmp_path / "strange"
    shutil.copytree(written / "adapter", strange)
    (strange / "polyrank.json").write_text("{}", encoding="utf-8")
    other = tmp_path / "other"
    shutil.copytree(written / "adapter", other)
    writers.save(tmp_path / "narrow", num_hidden_layers=1)
    classifier = tmp_path / "classifier"
    shutil.copytree(classified / "adapter", classifier)
    (classifier / "polyrank.json").unlink()
    cases: dict[str, list[str | Path]] = {
        "there is no": ["nowhere", "-p", "Hi"],
        "is a file; expected a run folder": [own_things / "study.toml", "-p", "Hi"],
        "holds neither a run, an adapter nor a model": [tmp_path / "empty", "-p", "Hi"],
        "was trained for classification, and does not write; polyrank evaluate": [classified, "-p", "Hi"],
        "does not write": [classified / "adapter", "-p", "Hi"],
        "SEQ_CLS that PolyRank did not write": [classifier, "-p", "Hi"],
        "there is no prompt; give --prompt": [written],
        "prompt 2: it is empty": [written, "-p", "Hi", "-p", "  "],
        "--file nofile cannot be read": [written, "--file", "nofile"],
        "--top-p 0.5 says how tokens are drawn": [written, "-p", "Hi", "--top-p", "0.5"],
        "--temperature 0.0: expected a number above 0": [written, "-p", "Hi", "--temperature", "0"],
        "--top-p 2.0: expected": [written, "-p", "Hi", "--temperature", "1", "--top-p", "2"],
        "is a whole model, without a base beside it; leave --base out": [
            written.parent / "llama",
            "-p",
            "Hi",
            "--base",
        ],
        "leave --model out": [written.parent / "llama", "-p", "Hi", "--model", "x"],
        "is no run folder, and holds one model; leave --client out": [written / "adapter", "-p", "Hi", "--client", "a"],
        "nothing stays with the clients": [written, "-p", "Hi", "--client", "site-0"],
        "polyrank.json cannot be read": [strange, "-p", "Hi"],
        "which has no model.layers.1.": [other, "-p", "Hi", "--model", tmp_path / "narrow"],
        "and the model takes 128, its answer included: shorten it": [written, "-p", "red " * 200],
    }
    for words, arguments in cases.items():
        result = polyrank("generate", *arguments)
        assert result.code == 2, (words, result)
        assert words in result.err, result.err
        assert len(result.err.strip().splitlines()) == 1, result.err
        assert result.out == ""
