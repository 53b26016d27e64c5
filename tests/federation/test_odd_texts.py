"""Texts that tokenizers and models stumble over: a run trains on them, or refuses them before the first round."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from polyrank import config as configuration
from polyrank.config import Config
from polyrank.core.errors import DataError, PolyRankError
from polyrank.runs.runner import run
from tests import models

ODD = (
    *(
        "[SEP]",
        "[SEP] [SEP] the cat",
        "the [SEP] cat",
        "[PAD]",
        "[PAD] [PAD] sun",
        "sun [PAD]",
        "[CLS]",
        "[MASK]",
        "[UNK]",
    ),
    *("</s>", "<s> the </s>", "<pad>", "<|endoftext|>", "<extra_id_0>"),
    *("\u200b", "\x00", "a\x00b", "\ufffd", "\ufeff", "a\u2028b", "\U0001f600", "e" + "\u0301" * 500),
    *("the " * 3000, "x" * 200_000, "a", "\u00ad", "\x7f\x1b[0m", "世界"),
)
FAMILIES = (*models.ARCHITECTURES, "deberta-v2", "bart", "t5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("odd")


def study(folder: Path, architecture: str, texts: tuple[str, ...], **sections: dict[str, Any]) -> Config:
    """Three clients of uneven sizes, all in one round; half of the rows are the texts, the other half the toy's."""
    model = folder / architecture
    if not model.exists():
        models.save(model, architecture)
    toy = models.toy(2 * max(len(texts), 12))
    rows = [[text, toy.label_names[label], "eve"] for text, label in zip(toy.texts, toy.labels, strict=True)]
    for i, text in enumerate(texts):
        rows[2 * i][0] = text
    for i, row in enumerate(rows):
        row[2] = ("ann", "bob", "eve")[min(i % 5, 2)]
    with (folder / f"{architecture}.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text", "label", "owner"], *rows])
    still = {
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }  # DeBERTa's has no form for several clients
    base = {
        "model": {"name": str(model), "head": "model", "config": still if architecture == "deberta-v2" else {}},
        "data": {"train": str(folder / f"{architecture}.csv"), "partition": "by-column", "column": "owner"},
        "federation": {"participation": 1.0, "rounds": 1},
        "ranks": {"policy": "fixed", "levels": [2]},
        "training": {"precision": "float32", "attention": "eager", "batch_size": 8, "workers": 1},
        "evaluation": {"diagnostics": False, "rank_groups": False},
    }
    values = {name: {**base.get(name, {}), **sections.get(name, {})} for name in {*base, *sections}}
    return configuration.parse(values, "odd")


@pytest.mark.parametrize(("head", "engine"), [("model", "sequential"), ("model", "batched"), ("mean-pool", "batched")])
@pytest.mark.parametrize("architecture", FAMILIES)
def test_every_family_trains_on_odd_texts(folder: Path, tmp_path: Path, architecture: str, head: str, engine: str):
    config = study(folder, architecture, ODD, model={"head": head}, training={"engine": engine, "clients_per_pass": 3})
    summary = run(config, tmp_path / "out")
    assert (summary["rounds"], summary["dropped"]) == (1, 0)
    assert 0 < summary["test/loss"] < 100


@pytest.mark.parametrize("architecture", ["bart", "t5"])
def test_uneven_clients_of_an_encoder_decoder_agree_over_the_engines(folder: Path, tmp_path: Path, architecture: str):
    """A pass fills the smaller clients up; their rows need an end token too."""
    losses = []
    for engine in ("sequential", "batched"):
        training = {"engine": engine, "clients_per_pass": 3}
        losses.append(run(study(folder, architecture, (), training=training), tmp_path / engine)["test/loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "t5"])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("half \ud83d", "row 3 .*: an emoji was cut in two"),
        ("", "1 row.s. with an empty text in 'text', at row 3 "),
        (" \t\n ", "1 row.s. with an empty text in 'text', at row 3 "),
        (5, r"that is not a string but 5 \(int\), at row 3 "),
        (["a"], r"that is not a string but \['a'\] \(list\), at row 3 "),
        ({"a": 1}, r"that is not a string but \{'a': 1\} \(dict\), at row 3 "),
        (True, r"that is not a string but True \(bool\), at row 3 "),
        (None, "1 row.s. with an empty text in 'text', at row 3 "),
    ],
)
def test_what_is_no_text_is_refused_with_its_row(
    folder: Path, tmp_path: Path, architecture: str, text: object, said: str
):
    rows = [{"text": "the cat", "label": label, "owner": "eve"} for label in ("pets", "fruit")] * 3
    rows[2] = {**rows[2], "text": text}  # type: ignore[dict-item]  # that is the point
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    config = study(folder, architecture, (), data={"train": str(tmp_path / "x.jsonl")})
    with pytest.raises(DataError, match=rf"x\.jsonl: .*{said}"):
        run(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def refused(config: Config, out: Path) -> str:
    with pytest.raises(PolyRankError) as error:
        run(config, out)
    assert not out.exists()
    assert "\n" not in str(error.value)
    return str(error.value)


def tokenizer_without_end(folder: Path, *, pad: bool) -> None:
    """Replace a tokenizer by one that adds nothing to a text, with the end token alone, or with one for padding too."""
    models.save_tokenizer(folder, decoder=True)
    if pad:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "pad_token": "[PAD]"}))


@pytest.mark.parametrize(("pad", "said"), [(False, "pads with it"), (True, "does not end texts with it")])
@pytest.mark.parametrize("architecture", ["bart", "t5"])
def test_a_tokenizer_without_the_end_that_the_head_looks_for(tmp_path: Path, architecture: str, pad: bool, said: str):
    config = study(tmp_path, architecture, ())
    tokenizer_without_end(tmp_path / architecture, pad=pad)
    assert f"looks for the end token '[SEP]', and its tokenizer {said}" in refused(config, tmp_path / "out")


def test_an_architecture_that_needs_more_than_text_is_refused(tmp_path: Path):
    """M2M-100 decodes only what it is given beside the text."""
    config = study(tmp_path, "m2m_100", (), model={"head": "mean-pool", "targets": "all-linear"})
    said = refused(config, tmp_path / "out")
    assert "m2m_100 under the head mean-pool cannot read the texts: ValueError: " in said
    assert "the longest has " in said


@pytest.mark.parametrize("most", [1, 2])
def test_no_place_for_a_text_is_refused(folder: Path, tmp_path: Path, most: int):
    """BERT's own two tokens take both places; with one, its tokenizer would not cut at all."""
    said = refused(study(folder, "bert", (), data={"max_tokens": most}), tmp_path / "out")
    assert f"data.max_tokens is {most}, and 2 tokens of each text are the tokenizer's own; expected more" in said
