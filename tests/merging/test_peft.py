"""A merged folder in plain PEFT: its logits are those of base + delta, worked out by hand."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from polyrank.core.errors import AdapterError
from polyrank.hf.peft import folder as peft_folder
from polyrank.hf.peft.file import AdapterFile
from polyrank.merging.merge import merge
from tests.hf.peft.test_folder import load_with_peft, plain_classifier
from tests.merging.folders import edit, tensors_of
from tests.merging.plain_peft import saved
from tests.models import Checkpoints, batch, logits, random_adapter, resident

SETTINGS: tuple[dict[str, Any], ...] = (
    {"r": 2, "lora_alpha": 6, "target_modules": ["query", "value"]},
    {"r": 4, "lora_alpha": 3, "use_rslora": True, "target_modules": ["query", "value", "output.dense"]},
    {
        "r": 3,
        "lora_alpha": 3,
        "rank_pattern": {"query": 5, r"layer\.1\..*value": 1},
        "alpha_pattern": {"value": 7},
        "target_modules": r".*(query|value|dense)",
        "exclude_modules": ["pooler.dense"],
    },
)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return Checkpoints(tmp_path_factory.mktemp("checkpoints"))


def with_attribute(model: peft.PeftModel, attribute: str) -> dict[str, nn.Module]:
    return {name: module for name, module in model.base_model.model.named_modules() if hasattr(module, attribute)}


def by_hand(base: nn.Module, models: Sequence[peft.PeftModel], weights: Sequence[float]) -> nn.Module:
    """The base with the weighted means of PEFT's own deltas added, and of heads and biases put in place."""
    model = copy.deepcopy(base).eval()
    layers = [with_attribute(each, "get_delta_weight") for each in models]
    for name in {name for each in layers for name in each}:
        owners = [(weight, each[name]) for weight, each in zip(weights, layers, strict=True) if name in each]
        total = sum(weight for weight, _ in owners)
        target = model.get_submodule(name)
        for weight, layer in owners:
            target.weight.data += weight / total * layer.get_delta_weight("default").detach()
            if layer.lora_bias.get("default"):
                target.bias.data += weight / total * layer.scaling["default"] * layer.lora_B["default"].bias.detach()
    heads = [with_attribute(each, "modules_to_save") for each in models]
    for name in heads[0]:
        for key, parameter in model.get_submodule(name).named_parameters():
            values = [each[name].modules_to_save["default"].get_parameter(key).detach() for each in heads]
            parameter.data = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    return model


@pytest.mark.parametrize("method", ["flora", "flexlora"])
def test_bert_with_adapters_of_every_kind(checkpoint: Checkpoints, tmp_path: Path, method: str):
    """Rank 12 holds the mean: 5 + 4 + 2 at most."""
    base = plain_classifier(checkpoint("bert"))
    weights = [3.0, 1.0, 2.0]
    models, folders = [], [tmp_path / str(i) for i in range(3)]
    for i, settings in enumerate(SETTINGS):
        models.append(saved(base, folders[i], i, task_type="SEQ_CLS", **settings))
    for folder in folders:
        edit(folder, base_model_name_or_path=str(checkpoint("bert")))
    merged = merge(folders, weights, method=method, rank=12 if method == "flexlora" else None)
    merged.save(tmp_path / "out")
    settings = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert bool(settings["rank_pattern"]) is (method == "flora")

    inputs = batch(resident(checkpoint("bert"), head="model"))
    expected = logits(by_hand(base, models, weights), inputs)
    found = logits(load_with_peft(plain_classifier(checkpoint("bert")), tmp_path / "out"), inputs)
    assert not torch.allclose(expected, logits(base, inputs), atol=0.1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    auto = peft.AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits(auto, inputs), expected, rtol=1e-4, atol=1e-4)
    assert peft_folder.read(tmp_path / "out").identical(merged.adapter)


def test_folders_of_our_own_load_with_their_base(checkpoint: Checkpoints, tmp_path: Path):
    """polyrank.json is kept, so that `base_model` knows the head."""
    model = resident(checkpoint("bert"), head="mean-pool")
    adapters = [random_adapter(model, seed) for seed in (0, 1)]
    target = peft_folder.Target(model.base.config, ("pets", "fruit"), model.base.head_modules)
    for i, adapter in enumerate(adapters):
        peft_folder.write(tmp_path / str(i), adapter, target)
    merged = merge([tmp_path / "0", tmp_path / "1"], method="owner_mean")
    merged.save(tmp_path / "out")
    model.install(merged.adapter)
    inputs = batch(model)
    found = logits(load_with_peft(peft_folder.base_model(tmp_path / "out").model, tmp_path / "out"), inputs)
    torch.testing.assert_close(found, logits(model.model, inputs), rtol=1e-5, atol=1e-5)


class Mixed(nn.Module):
    """An embedding, convolutions of one and two dimensions, and linear layers one of whose names ends another's."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 8)
        self.line = nn.Conv1d(8, 6, 3, padding=1)
        self.plane = nn.Conv2d(1, 4, (3, 2))
        self.fc = nn.Linear(4, 5)
        self.block = nn.ModuleDict({"fc": nn.Linear(5, 3)})

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.line(self.words(ids).transpose(1, 2))
        hidden = self.plane(hidden[:, None]).mean(dim=(2, 3))
        out: torch.Tensor = self.block["fc"](torch.tanh(self.fc(hidden)))
        return out


@pytest.fixture
def mixed() -> Mixed:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return Mixed().eval()


IDS = torch.arange(10).reshape(2, 5)


@pytest.mark.parametrize(
    ("targets", "more"),
    [
        (["words", "fc"], {}),
        (["line", "plane"], {}),
        (["line", "plane", "fc"], {"lora_bias": True}),
        (["fc"], {"bias": "all"}),
        (["fc"], {"bias": "lora_only"}),
        (["words", "line", "plane", "fc"], {"rank_pattern": {"^fc": 3, "line": 4}, "use_rslora": True}),
    ],
    ids=["embedding", "convolutions", "lora bias", "all biases", "biases of LoRA layers", "ranks"],
)
def test_other_layers(mixed: Mixed, tmp_path: Path, targets: list[str], more: dict[str, Any]):
    settings = {"target_modules": targets, **more}
    folders = [tmp_path / "a", tmp_path / "b"]
    models = [
        saved(mixed, folders[0], 1, r=1, lora_alpha=3, **settings),
        saved(mixed, folders[1], 2, r=2, lora_alpha=2, **settings),
    ]
    merge(folders, [1, 3], method="flora").save(tmp_path / "out")
    expected = by_hand(mixed, models, [1, 3])
    if "bias" in more:
        for name, parameter in expected.named_parameters():
            values = [dict(m.base_model.model.named_parameters()) for m in models]
            inner = name if name in values[0] else name.removesuffix("bias") + "base_layer.bias"
            if name.endswith("bias"):
                parameter.data = (values[0][inner].detach() + 3 * values[1][inner].detach()) / 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = peft.PeftModel.from_pretrained(copy.deepcopy(mixed), tmp_path / "out").eval()
    assert not torch.allclose(expected(IDS), mixed(IDS), atol=1e-2)
    torch.testing.assert_close(found(IDS), expected(IDS), rtol=1e-4, atol=1e-5)


def test_a_lora_bias_of_one_adapter_counts_as_zero_in_the_other(mixed: Mixed, tmp_path: Path):
    folders = [tmp_path / "a", tmp_path / "b"]
    models = [
        saved(mixed, folder, i, r=2, target_modules=["fc"], lora_bias=bool(i)) for i, folder in enumerate(folders)
    ]
    merge(folders, [1, 3], method="owner_mean", dtype="float32").save(tmp_path / "out")
    bias = models[1].base_model.model.fc
    expected = 0.75 * bias.scaling["default"] * bias.lora_B["default"].bias.detach()
    found = peft.PeftModel.from_pretrained(copy.deepcopy(mixed), tmp_path / "out").base_model.model.fc
    torch.testing.assert_close(found.scaling["default"] * found.lora_B["default"].bias.detach(), expected)


def test_a_lora_bias_beside_an_embedding_is_refused(mixed: Mixed, tmp_path: Path):
    saved(mixed, tmp_path / "a", 1, r=2, target_modules=["words"])
    saved(mixed, tmp_path / "b", 1, r=2, target_modules=["fc"], lora_bias=True)
    with pytest.raises(AdapterError, match=r"words is an embedding and block\.fc has a LoRA bias"):
        merge([tmp_path / "a", tmp_path / "b"])


def test_dora_and_grouped_convolutions_are_refused_by_name(mixed: Mixed, tmp_path: Path):
    saved(mixed, tmp_path / "dora", 1, r=2, target_modules=["fc"], use_dora=True)
    with pytest.raises(AdapterError, match=r"use_dora, which is more than scale.*weights of the base"):
        merge([tmp_path / "dora"])
    saved(nn.Sequential(nn.Conv2d(4, 6, 3, groups=2)), tmp_path / "groups", 1, r=2, target_modules=["0"])
    with pytest.raises(AdapterError, match=r": 0 has lora_A \[2, 4, 3, 3\].*grouped convolution"):
        merge([tmp_path / "groups"])


def test_names_that_end_others_keep_their_own_rank(mixed: Mixed, tmp_path: Path):
    """A pattern "fc" of PEFT's would match "block.fc" as well; we write "^fc"."""
    saved(mixed, tmp_path / "a", 1, r=1, target_modules=["fc", "line"], rank_pattern={"^fc": 2, "line": 1})
    merge([tmp_path / "a"]).save(tmp_path / "out")
    with AdapterFile(tmp_path / "out") as file:
        assert {name: layer.rank for name, layer in file.layers.items()} == {"fc": 2, "block.fc": 1, "line": 1}


def test_only_linear_layers_become_an_adapter_in_memory(mixed: Mixed, tmp_path: Path):
    """`read` has no place for the rest."""
    saved(mixed, tmp_path / "a", 1, r=2, target_modules=["words"])
    with pytest.raises(AdapterError, match="words has LoRA of the kind embedding"):
        peft_folder.read(tmp_path / "a")
    assert load_file(tmp_path / "a/adapter_model.safetensors").keys() != tensors_of(tmp_path / "a").keys()
