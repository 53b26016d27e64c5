"""Every setting that is kept is read and written as PEFT reads it: the merge of one adapter is that adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from polyrank.core.errors import AdapterError
from polyrank.merging.merge import merge
from tests.merging.folders import edit
from tests.merging.plain_peft import IDS, agree, gated, llama, loaded, mean, saved

BOTH = ["fc.0", "fc.1", "fc_0", "head"]

KEPT: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": BOTH},
    "rslora": {"target_modules": BOTH, "use_rslora": True},
    "patterns": {"target_modules": BOTH, "rank_pattern": {r"fc\.0": 5, "fc_0": 1}, "alpha_pattern": {"^fc.[01]": 9}},
    "a pattern that a dot widens": {"target_modules": BOTH, "alpha_pattern": {"fc.0": 11}},
    "targets by a pattern": {"target_modules": r"fc\.\d|head|fc_0"},
    "excluded": {"target_modules": ["fc_0", "0", "1"], "exclude_modules": ["block.fc_0"]},
    "one layer of a list": {"target_modules": ["q_proj"], "layers_to_transform": 0},
    "layers of a list": {
        "target_modules": ["q_proj", "down_proj"],
        "layers_to_transform": [1],
        "layers_pattern": "layers",
    },
    "biases": {"target_modules": BOTH, "bias": "all"},
    "biases of LoRA layers": {"target_modules": BOTH, "bias": "lora_only"},
    "LoRA biases": {"target_modules": BOTH, "lora_bias": True},
    "a head": {"target_modules": ["fc.0"], "modules_to_save": ["head"]},
    "an embedding": {"target_modules": ["words", "fc.0"]},
    "transposed": {"target_modules": ["fc.0"], "fan_in_fan_out": True},
    "VeLoRA": {"target_modules": ["fc.0"], "velora_config": {"num_groups": 2}},
    "MiCA": {"target_modules": ["fc.0"], "init_lora_weights": "mica"},
    "dropout": {"target_modules": ["fc.0"], "lora_dropout": 0.3},
}


@pytest.mark.parametrize("kind", KEPT)
@pytest.mark.parametrize("others", [0, 1])
def test_one_adapter_is_itself_in_plain_peft(tmp_path: Path, kind: str, others: int):
    """Outputs, and updates; also beside itself under another name, with its target modules named otherwise."""
    base = llama() if "layers_to_transform" in KEPT[kind] else gated()
    model = saved(base, tmp_path / "a", 1, r=2, lora_alpha=6, **KEPT[kind])
    folders = [tmp_path / "a"]
    if others:
        saved(base, tmp_path / "b", 1, r=2, lora_alpha=6, **KEPT[kind])
        edit(tmp_path / "b", target_modules=None)
        folders.append(tmp_path / "b")
    merge(folders, method="flora").save(tmp_path / "out")
    again = loaded(base, tmp_path / "out")
    agree(again, mean([model], [1]))
    torch.testing.assert_close(values(again), values(model), rtol=1e-4, atol=1e-5)


def values(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        out = model(IDS)
    return out if isinstance(out, torch.Tensor) else out.logits


@pytest.mark.parametrize("method", ["flora", "flexlora", "owner_mean"])
def test_patterns_match_no_other_module(tmp_path: Path, method: str):
    """``fc.0`` as a pattern would match ``fc_0``, and ``fc_0`` the ending of ``block.fc_0``."""
    targets, base = ["fc.0", "fc.1", "fc_0"], gated()
    models = [
        saved(base, tmp_path / "a", 1, r=2, lora_alpha=6, target_modules=targets, alpha_pattern={r"fc\.0": 10}),
        saved(base, tmp_path / "b", 2, r=4, lora_alpha=4, target_modules=targets, rank_pattern={"^fc_0": 3}),
    ]
    merged = merge([tmp_path / "a", tmp_path / "b"], [3, 1], method=method)
    merged.save(tmp_path / "out")
    expected = mean(models, [3, 1]) if method == "flora" else {n: f.delta() for n, f in merged.adapter.modules.items()}
    agree(loaded(base, tmp_path / "out"), {name: matrix.double() for name, matrix in expected.items()})


def test_modules_that_are_named_match_no_other(tmp_path: Path):
    """Neither adapter trains ``block.fc_0``, which the list ``["fc_0", ...]`` would give LoRA."""
    base = gated()
    models = [
        saved(base, tmp_path / "a", 1, r=2, target_modules="fc_0|head"),
        saved(base, tmp_path / "b", 2, r=2, target_modules=["fc_0", "gate"], exclude_modules=["block.fc_0"]),
    ]
    merge([tmp_path / "a", tmp_path / "b"], method="flora").save(tmp_path / "out")
    agree(loaded(base, tmp_path / "out"), mean(models, [1, 1]))


def test_factors_that_peft_would_leave_out_are_refused(tmp_path: Path):
    """The settings name ``fc.0``, the file holds ``head`` as well: PEFT loads the one, and says that keys are left."""
    saved(gated(), tmp_path / "a", 1, r=2, target_modules=["fc.0", "head"])
    edit(tmp_path / "a", target_modules=["fc.0"])
    with pytest.raises(AdapterError, match=r"factors of head, which the target modules of .* leave out"):
        merge([tmp_path / "a"])


def test_a_lora_bias_that_peft_would_leave_out_is_refused(tmp_path: Path):
    saved(gated(), tmp_path / "a", 1, r=2, target_modules=["head"], lora_bias=True)
    edit(tmp_path / "a", lora_bias=False)
    with pytest.raises(AdapterError, match="head has a LoRA bias, but lora_bias is not set"):
        merge([tmp_path / "a"])


def test_attention_in_one_layer_is_refused(tmp_path: Path):
    """Its output projection is LoRA inside of LoRA, and takes its rank and alpha from outside."""
    saved(torch.nn.Sequential(torch.nn.MultiheadAttention(8, 2)), tmp_path / "a", 1, r=2, target_modules=["0"])
    with pytest.raises(AdapterError, match=r"0\.base_layer\.out_proj\.lora_A\.weight is LoRA inside"):
        merge([tmp_path / "a"])


def test_one_meaning_under_two_spellings_is_kept(tmp_path: Path):
    """One layer as a number and as a list, names in another order, a rank with a point, a byte order mark."""
    base, settings = llama(), {"r": 2, "target_modules": ["q_proj", "down_proj"], "layers_to_transform": [1]}
    models = [saved(base, tmp_path / name, i, **settings) for i, name in enumerate("ab")]
    edit(tmp_path / "b", target_modules=["down_proj", "q_proj"], layers_to_transform=1, exclude_modules=[], r=2.0)
    path = tmp_path / "b" / "adapter_config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    merge([tmp_path / "a", tmp_path / "b"], [1, 3], method="flora").save(tmp_path / "out")
    written = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert written["layers_to_transform"] == [1]
    agree(loaded(base, tmp_path / "out"), mean(models, [1, 3]))


def test_the_mapping_of_classes_is_kept_where_all_agree(tmp_path: Path):
    for name in "ab":
        saved(gated(), tmp_path / name, 1, r=2, target_modules=["head"])
    edit(tmp_path / "a", auto_mapping={"base_model_class": "Gated", "parent_library": "here"})
    edit(tmp_path / "b", auto_mapping=None)
    written = merge([tmp_path / "a", tmp_path / "b"]).settings
    assert written["auto_mapping"] == {"base_model_class": "Gated", "parent_library": "here"}
    edit(tmp_path / "b", auto_mapping={"base_model_class": "Other", "parent_library": "there"})
    assert merge([tmp_path / "a", tmp_path / "b"]).settings["auto_mapping"] is None


def test_lora_inside_of_a_module_that_another_trains_whole_is_refused(tmp_path: Path):
    """PEFT would not load the LoRA of ``block.fc_0``; the tensors alone do not show it where the whole one is bare."""
    saved(gated(), tmp_path / "a", 1, r=2, target_modules=["fc.0", "block.fc_0"])
    saved(gated(), tmp_path / "b", 2, r=2, target_modules=["fc.0"], modules_to_save=["head"])
    edit(tmp_path / "b", modules_to_save=["head", "block"])
    with pytest.raises(AdapterError, match=r"block\.fc_0 is trained by LoRA in one adapter, and lies in a module"):
        merge([tmp_path / "a", tmp_path / "b"])


@pytest.mark.parametrize("settings", [{"alpha_pattern": {"(" * 5000: 1}}, {"rank_pattern": {"a{99999999999999}": 1}}])
def test_what_is_no_pattern_is_told(tmp_path: Path, settings: dict[str, Any]):
    saved(gated(), tmp_path / "a", 1, r=2, target_modules=["fc.0"])
    edit(tmp_path / "a", **settings)
    with pytest.raises(AdapterError, match="is no regular expression"):
        merge([tmp_path / "a"])
