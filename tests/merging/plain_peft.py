"""Tiny bases, adapters that plain PEFT saves, and what plain PEFT computes from them: the oracle of these tests."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

IDS = torch.arange(12).reshape(2, 6)


class Gated(nn.Module):
    """A layer of one output beside others, two of whose names differ in a dot only, or end as another's."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(12, 6)
        self.fc = nn.ModuleList([nn.Linear(6, 9), nn.Linear(6, 9)])
        self.fc_0 = nn.Linear(6, 9)
        self.block = nn.ModuleDict({"fc_0": nn.Linear(6, 9)})
        self.gate = nn.Linear(9, 1, bias=False)
        self.head = nn.Linear(9, 4)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        hidden = torch.tanh(self.fc[0](x) + self.fc[1](x) + self.fc_0(x) + self.block["fc_0"](x))
        out: Tensor = self.head(hidden * self.gate(hidden))
        return out


def gated() -> Gated:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Gated().eval()


def llama(**settings: Any) -> LlamaForCausalLM:
    """Tied embeddings unless told otherwise."""
    small = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**{**small, **heads, **settings})).eval()


def saved(base: nn.Module, folder: Path, seed: int, **settings: Any) -> peft.PeftModel:
    """An adapter of random values, as PEFT saves it."""
    settings = {"init_lora_weights": False, **settings}
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(**settings))
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "lora_A" not in name and not name.startswith("base_model.model.lm_head"):
                nn.init.normal_(parameter)
        model.save_pretrained(folder)
    return model.eval()


def loaded(base: nn.Module, folder: Path) -> peft.PeftModel:
    """As plain PEFT loads it; any word of keys that are missing or left over is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("error", RuntimeWarning)
        warnings.filterwarnings("ignore", message=".*(fan_in_fan_out|tie_word_embeddings|ensure_weight_tying)")
        return peft.PeftModel.from_pretrained(copy.deepcopy(base), folder).eval()


def updates(model: peft.PeftModel) -> dict[str, Tensor]:
    """Module -> dense update, as PEFT computes it."""
    return {
        name: layer.get_delta_weight("default").detach().double()
        for name, layer in model.base_model.model.named_modules()
        if hasattr(layer, "get_delta_weight")
    }


def mean(models: Sequence[peft.PeftModel], weights: Sequence[float]) -> dict[str, Tensor]:
    """The weighted mean of the updates, each module over the adapters that have it."""
    found = [updates(model) for model in models]
    out = {}
    for name in {name for each in found for name in each}:
        owners = [(weight, each[name]) for weight, each in zip(weights, found, strict=True) if name in each]
        out[name] = sum((w * delta for w, delta in owners), torch.tensor(0.0)) / sum(w for w, _ in owners)
    return out


def agree(model: peft.PeftModel, expected: Mapping[str, Tensor], tolerance: float = 1e-5) -> None:
    """The same modules, each update within a share of its size."""
    found = updates(model)
    assert found.keys() == expected.keys()
    for name, matrix in expected.items():
        assert float((found[name] - matrix).norm()) <= tolerance * float(matrix.norm()), name
