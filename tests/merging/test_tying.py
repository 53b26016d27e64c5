"""Embeddings that share their weights with the head (PEFT issue 2864): what is merged is tied again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from polyrank.aggregation import METHODS
from polyrank.core.errors import AdapterError
from polyrank.hf.peft import folder as peft_folder
from polyrank.merging.merge import merge
from tests.merging.folders import edit, replace_tensors, tensors_of
from tests.merging.plain_peft import IDS, agree, llama, loaded, mean, saved, updates

TIED: dict[str, Any] = {"task_type": "CAUSAL_LM", "ensure_weight_tying": True}
EMBED = {**TIED, "target_modules": ["embed_tokens", "q_proj", "down_proj"]}
HEAD = {**TIED, "target_modules": ["lm_head", "q_proj"]}
PATTERN = {**TIED, "target_modules": r"(model\.)?embed_tokens|.*q_proj"}
EMBEDDING = "model.embed_tokens"


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model(input_ids=IDS).logits
    return out


@pytest.mark.parametrize("settings", [EMBED, HEAD, PATTERN], ids=["embedding", "head", "pattern"])
def test_one_tied_adapter_is_itself(tmp_path: Path, settings: dict[str, Any]):
    model = saved(llama(), tmp_path / "a", 1, r=2, lora_alpha=6, **settings)
    merge([tmp_path / "a"], method="flora").save(tmp_path / "out")
    again = loaded(llama(), tmp_path / "out")
    assert "lm_head" in updates(again)
    torch.testing.assert_close(logits(again), logits(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", [name for name, cls in METHODS.items() if cls.info.merges])
def test_the_head_follows_the_embedding(tmp_path: Path, method: str):
    """Its update is the transpose of the embedding's, before and after saving; stacked, it is the mean."""
    equal = METHODS[method].info.equal_ranks
    models = [
        saved(llama(), tmp_path / "a", 1, r=2, lora_alpha=6, **EMBED),
        saved(llama(), tmp_path / "b", 2, r=2 if equal else 4, lora_alpha=4, **{**EMBED, **HEAD}),
    ]
    weights = None if method == "hetlora" else [3, 1]
    merged = merge([tmp_path / "a", tmp_path / "b"], weights, method=method)
    assert merged.losses["lm_head"] == merged.losses[EMBEDDING]
    merged.save(tmp_path / "out")
    assert json.loads((tmp_path / "out/adapter_config.json").read_text())["ensure_weight_tying"] is True
    found = updates(loaded(llama(), tmp_path / "out"))
    computed = merged.adapter.modules["lm_head"].delta().double()
    assert torch.allclose(found["lm_head"], computed, atol=1e-5)
    assert torch.allclose(found[EMBEDDING], computed, atol=1e-5)
    if method == "flora":
        agree(loaded(llama(), tmp_path / "out"), mean(models, [3, 1]))


def test_saved_embeddings_stay_tied(tmp_path: Path):
    settings = {**TIED, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}
    models = [saved(llama(), tmp_path / name, i, r=2, **settings) for i, name in enumerate("ab")]
    merge([tmp_path / "a", tmp_path / "b"], [1, 3]).save(tmp_path / "out")
    again = loaded(llama(), tmp_path / "out").base_model.model
    expected = sum(
        weight * model.base_model.model.model.embed_tokens.modules_to_save["default"].weight.detach()
        for weight, model in zip((0.25, 0.75), models, strict=True)
    )
    for module in (again.model.embed_tokens, again.lm_head):
        torch.testing.assert_close(module.modules_to_save["default"].weight.detach(), expected)


def test_an_embedding_that_is_tied_in_one_adapter_only_is_refused(tmp_path: Path):
    saved(llama(), tmp_path / "a", 1, r=2, **EMBED)
    saved(llama(), tmp_path / "b", 2, r=2, **{**EMBED, "ensure_weight_tying": False})
    for folders in (["a", "b"], ["b", "a"]):
        with pytest.raises(AdapterError, match="do not tie the same layers to their embeddings"):
            merge([tmp_path / name for name in folders])


def test_tying_without_an_embedding_ties_nothing(tmp_path: Path):
    """PEFT warns and goes on; so the setting says nothing, and isn't written."""
    models = [
        saved(llama(), tmp_path / "a", 1, r=2, target_modules=["q_proj"], ensure_weight_tying=True),
        saved(llama(), tmp_path / "b", 2, r=2, target_modules=["q_proj"]),
    ]
    merge([tmp_path / "a", tmp_path / "b"], method="flora").save(tmp_path / "out")
    assert "ensure_weight_tying" not in json.loads((tmp_path / "out/adapter_config.json").read_text())
    agree(loaded(llama(), tmp_path / "out"), mean(models, [1, 1]))


def test_an_adapter_without_the_embedding_may_stand_beside_a_tied_one(tmp_path: Path):
    models = [
        saved(llama(), tmp_path / "a", 1, r=2, **EMBED),
        saved(llama(), tmp_path / "b", 2, r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    ]
    merge([tmp_path / "a", tmp_path / "b"], [1, 3], method="flora").save(tmp_path / "out")
    agree(loaded(llama(), tmp_path / "out"), mean(models, [1, 3]))


def test_embeddings_of_a_tied_base_without_the_setting(tmp_path: Path):
    """PEFT gives the embedding LoRA, and the head none."""
    settings = {**EMBED, "ensure_weight_tying": False}
    models = [saved(llama(), tmp_path / name, i, r=2 + i, **settings) for i, name in enumerate("ab")]
    merge([tmp_path / "a", tmp_path / "b"], method="flora").save(tmp_path / "out")
    agree(loaded(llama(), tmp_path / "out"), mean(models, [1, 1]))


@pytest.mark.parametrize("what", ["factors", "scales"])
def test_a_head_that_does_not_follow_is_refused(tmp_path: Path, what: str):
    """PEFT would load one over the other, as they lie in one piece of memory."""
    saved(llama(), tmp_path / "a", 1, r=2, lora_alpha=2, **EMBED)
    if what == "factors":
        tensors = tensors_of(tmp_path / "a")
        tensors["lm_head.lora_B.weight"] += 1
        replace_tensors(tmp_path / "a", tensors)
    else:
        edit(tmp_path / "a", alpha_pattern={"lm_head": 7})
    with pytest.raises(AdapterError, match=f"ties lm_head to model.embed_tokens, but their {what} differ"):
        merge([tmp_path / "a"])


def test_an_adapter_in_memory_has_no_place_for_tied_layers(tmp_path: Path):
    saved(llama(), tmp_path / "a", 1, r=2, **EMBED)
    with pytest.raises(AdapterError, match="ensure_weight_tying"):
        peft_folder.read(tmp_path / "a")
