"""Tensors of unusual sizes: empty ones, ranks above a layer's smaller side, vocabularies that differ."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn

from polyrank.aggregation import METHODS
from polyrank.core.errors import AdapterError, ConfigError
from polyrank.hf.peft import folder as peft_folder
from polyrank.merging.merge import merge
from tests.merging.folders import edit, replace_tensors, tensors_of, write
from tests.merging.plain_peft import agree, gated, loaded, mean, saved, updates

QUERY = "encoder.layer.0.query"


@pytest.mark.parametrize(
    "name",
    [f"{QUERY}.lora_A.weight", f"{QUERY}.lora_B.weight", "classifier.weight", f"{QUERY}.base_layer.bias"],
)
@pytest.mark.parametrize("shape", [(0,), (0, 9), (3, 0)])
def test_an_empty_tensor_is_refused_by_name(tmp_path: Path, name: str, shape: tuple[int, ...]):
    """As DeepSpeed ZeRO-3 saves what lies on other processes."""
    folders = [write(tmp_path / each, dense={"classifier.weight": (3, 4)}) for each in "ab"]
    replace_tensors(folders[1], {**tensors_of(folders[1]), name: torch.zeros(shape)})
    with pytest.raises(AdapterError, match=rf"/b: {name} is empty, \[.*gather them"):
        merge(folders)


NARROW = {"target_modules": ["fc.0", "gate"]}


@pytest.mark.parametrize("method", [name for name, cls in METHODS.items() if cls.info.merges])
def test_a_rank_above_the_smaller_side(tmp_path: Path, method: str):
    """The gate has one output and rank 4; what PEFT loads is what the method computed."""
    base = gated()
    ranks = (4, 4) if METHODS[method].info.equal_ranks else (2, 4)
    models = [saved(base, tmp_path / str(i), i, r=rank, lora_alpha=6, **NARROW) for i, rank in enumerate(ranks)]
    weights = None if method == "hetlora" else [3, 1]
    merged = merge([tmp_path / "0", tmp_path / "1"], weights, method=method)
    merged.save(tmp_path / "out")
    again = loaded(base, tmp_path / "out")
    agree(again, {name: factors.delta().double() for name, factors in merged.adapter.modules.items()})
    expected = mean(models, weights or [1, 1])
    if method in ("flora", "fedex"):
        agree(again, expected)
    if method == "flexlora":  # rank 1 holds all that a row can have
        assert torch.allclose(updates(again)["gate"], expected["gate"], atol=1e-5)


@pytest.mark.parametrize(("rank", "narrow"), [(1, 1), (3, 3), (6, 6)])
def test_a_rank_asked_for_is_the_rank_of_every_module(tmp_path: Path, rank: int, narrow: int):
    """Also of the gate, with zeros; 6 is the smaller side of ``fc.0``, and no layer could use more."""
    base = gated()
    models = [saved(base, tmp_path / str(i), i, r=2, **NARROW) for i in range(2)]
    merged = merge([tmp_path / "0", tmp_path / "1"], rank=rank)
    assert {name: factors.rank for name, factors in merged.adapter.modules.items()} == {"fc.0": rank, "gate": narrow}
    merged.save(tmp_path / "out")
    gate = updates(loaded(base, tmp_path / "out"))["gate"]
    assert torch.allclose(gate, mean(models, [1, 1])["gate"], atol=1e-5)
    with pytest.raises(ConfigError, match=r"rank 7 is above the size of fc\.0, the widest layer, which is 9 x 6"):
        merge([tmp_path / "0", tmp_path / "1"], rank=7)


def test_a_rank_above_the_smaller_side_is_read(tmp_path: Path):
    model = saved(gated(), tmp_path / "a", 1, r=4, **NARROW)
    found = peft_folder.read(tmp_path / "a").modules["gate"]
    assert found.rank == 4
    assert torch.allclose(found.delta().double(), updates(model)["gate"], atol=1e-6)


class Words(nn.Module):
    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(tokens, 8)
        self.fc = nn.Linear(8, 5)
        self.lm_head = nn.Linear(8, tokens)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.lm_head(self.fc(self.embed_tokens(ids)))
        return out


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["fc"], "modules_to_save": ["embed_tokens"]},
        {"target_modules": ["fc"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["fc", "embed_tokens"]},
        {"target_modules": ["fc", "lm_head"]},
    ],
    ids=["saved embeddings", "saved head", "LoRA of embeddings", "LoRA of the head"],
)
def test_vocabularies_of_other_sizes(tmp_path: Path, settings: dict[str, list[str]]):
    for tokens in (11, 13):
        saved(Words(tokens), tmp_path / str(tokens), 1, r=2, **settings)
    with pytest.raises(AdapterError, match=r"11.*13.*rows are tokens, and the vocabularies differ") as error:
        merge([tmp_path / "11", tmp_path / "13"])
    assert "label" not in str(error.value)


def with_tokens(folder: Path, *added: str) -> None:
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "cat": 1, "dog": 2}, unk_token="[UNK]"))
    tokenizer.add_tokens(list(added))
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize(
    "settings",
    [{"target_modules": ["fc"], "modules_to_save": ["embed_tokens"]}, {"target_modules": ["fc", "embed_tokens"]}],
    ids=["saved", "LoRA"],
)
def test_vocabularies_of_one_size_and_other_tokens(tmp_path: Path, settings: dict[str, list[str]]):
    """Both users added two tokens, which got the numbers 3 and 4; an order of their own is not the same vocabulary."""
    for name in "abc":
        saved(Words(5), tmp_path / name, 1, r=2, **settings)
    with_tokens(tmp_path / "a", "<tool>", "<end>")
    with_tokens(tmp_path / "b", "<end>", "<tool>")
    with_tokens(tmp_path / "c", "<tool>")
    with pytest.raises(AdapterError, match=r"token \d is '<(tool|end)>' in one, '<(tool|end)>' in the other"):
        merge([tmp_path / "a", tmp_path / "b"])
    merge([tmp_path / "a", tmp_path / "c"])
    (tmp_path / "b/tokenizer.json").write_text("{")
    merge([tmp_path / "a", tmp_path / "b"])


def test_other_tokens_do_not_matter_where_no_embedding_is_trained(tmp_path: Path):
    for name, token in (("a", "<tool>"), ("b", "<end>")):
        saved(Words(4), tmp_path / name, 1, r=2, target_modules=["fc"])
        with_tokens(tmp_path / name, token)
    merge([tmp_path / "a", tmp_path / "b"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("classifier.weight", "heads of different labels"),
        ("score.weight", "heads of different labels"),
        ("transformer.wte.weight", "rows are tokens"),
        ("position_embeddings.weight", "tensors of different shapes"),
    ],
)
def test_whole_tensors_of_other_sizes_say_what_they_are(tmp_path: Path, name: str, said: str):
    folders = [write(tmp_path / str(n), dense={name: (n, 4)}) for n in (2, 3)]
    for folder in folders:
        edit(folder, modules_to_save=None)
    with pytest.raises(AdapterError, match=rf"{name} is \[2, 4\] in .*/2 and \[3, 4\] in .*/3; .*{said}"):
        merge(folders)
