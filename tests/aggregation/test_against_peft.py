"""PEFT's own merges of adapters against ours: "cat" is FLoRA's mean of the products, "svd" is FlexLoRA.

PEFT before 0.21 applied the scale of an adapter twice in its "svd" merge.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from polyrank.aggregation import Aggregate, build
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.state import ClientUpdate, ServerState
from tests.conformance.fixtures import conclude

CLIENTS: Mapping[str, tuple[float, dict[str, Any]]] = {  # Any: keyword arguments of LoraConfig
    "ann": (3.0, {"r": 4, "lora_alpha": 4}),
    "bob": (1.0, {"r": 2, "lora_alpha": 16}),
    "cem": (4.0, {"r": 6, "lora_alpha": 3, "rank_pattern": {"v": 1}, "alpha_pattern": {"v": 5}}),
    "dee": (2.0, {"r": 3, "lora_alpha": 6, "use_rslora": True}),
}
"""Weight and LoRA settings: scales 1, 8, 1/2 (5 in v) and 6 / sqrt(3); ranks 4, 2, 6 (1 in v) and 3."""

WEIGHT = sum(weight for weight, _ in CLIENTS.values())


class Layers(nn.Module):
    """Two layers that are not square."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(20, 12, bias=False)
        self.v = nn.Linear(12, 30, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.v(self.q(x))


@pytest.fixture(scope="module")
def peft_model() -> PeftModel:
    """One adapter for each client, with random A and B."""
    generator = torch.Generator().manual_seed(0)
    model: PeftModel | None = None
    for name, (_, settings) in CLIENTS.items():
        config = LoraConfig(target_modules=["q", "v"], **settings)
        if model is None:
            model = get_peft_model(Layers(), config, adapter_name=name)
        else:
            model.add_adapter(name, config)
    assert model is not None
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "lora_" in name:
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return model


def _layers(model: PeftModel) -> dict[str, Any]:  # Any: PEFT's LoRA layers
    return {name: getattr(model.base_model.model, name) for name in ("q", "v")}


def _updates(model: PeftModel) -> list[ClientUpdate]:
    return [
        ClientUpdate(
            client,
            Adapter(
                {
                    name: Factors(
                        layer.lora_A[client].weight.detach(),
                        layer.lora_B[client].weight.detach(),
                        layer.scaling[client],
                    )
                    for name, layer in _layers(model).items()
                }
            ),
            weight,
        )
        for client, (weight, _) in CLIENTS.items()
    ]


def _ours(model: PeftModel, name: str, rank: int = 6) -> Aggregate:
    """The global rank is at least that of every client; the stacks have rank 15 and 10."""
    modules = {
        n: Factors(torch.zeros(rank, x.in_features), torch.zeros(x.out_features, rank), 0.5)
        for n, x in _layers(model).items()
    }
    return conclude(build(name), ServerState(0, Adapter(modules), {}, {}), _updates(model))


def _theirs(model: PeftModel, combination: str, rank: int | None = None) -> dict[str, torch.Tensor]:
    name = f"{combination} {rank}".replace(" ", "_")
    weights = [weight / WEIGHT for weight, _ in CLIENTS.values()]
    model.add_weighted_adapter(list(CLIENTS), weights, name, combination_type=combination, svd_rank=rank)
    return {n: layer.get_delta_weight(name).detach() for n, layer in _layers(model).items()}


def _close(found: Adapter, expected: Mapping[str, torch.Tensor]) -> None:
    """To 1e-5 of the norm of each layer's update."""
    assert found.modules.keys() == expected.keys()
    for name, factors in found.modules.items():
        gap = float((factors.delta() - expected[name]).norm())
        assert gap < 1e-5 * float(expected[name].norm()), f"{name}: off by {gap}"


def test_the_updates_are_what_peft_adds_to_the_weights(peft_model: PeftModel):
    """Scale, orientation and rank of every factor, so that the rest compares methods and nothing else."""
    for update in _updates(peft_model):
        deltas = {n: x.get_delta_weight(update.client).detach() for n, x in _layers(peft_model).items()}
        _close(update.adapter, deltas)
    assert {u.client: u.adapter.modules["v"].rank for u in _updates(peft_model)} == {
        "ann": 4,
        "bob": 2,
        "cem": 1,
        "dee": 3,
    }


def test_cat_is_floras_mean(peft_model: PeftModel):
    result = _ours(peft_model, "flora")
    assert result.base_change is not None
    _close(result.base_change, _theirs(peft_model, "cat"))


@pytest.mark.parametrize("rank", [6, 8, 12])
def test_svd_is_flexlora(peft_model: PeftModel, rank: int):
    _close(_ours(peft_model, "flexlora", rank).adapter, _theirs(peft_model, "svd", rank))


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_svd_of_a_lower_rank_is_what_flexlora_reads_out(peft_model: PeftModel, rank: int):
    """The first rank indices of a result of rank 6."""
    _close(_ours(peft_model, "flexlora").adapter.prefix(rank), _theirs(peft_model, "svd", rank))
