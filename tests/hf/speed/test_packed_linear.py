from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

from polyrank.hf.speed.packed_linear import PackedLinear, pack
from tests.models import Checkpoints, resident

needs_packing = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this build of torch has no packed layers"
)


def frozen(d_in: int = 24, d_out: int = 40, *, bias: bool = True) -> nn.Linear:
    return nn.Linear(d_in, d_out, bias=bias).to(torch.bfloat16).requires_grad_(False)


@needs_packing
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 24), (2, 5, 24), (1, 1, 24)])
def test_the_same_values_and_gradients(shape: tuple[int, ...], bias: bool):
    """Against float32: no further off than torch's own bfloat16 layer, up to one rounding."""
    torch.manual_seed(0)
    plain = frozen(bias=bias)
    packed = pickle.loads(pickle.dumps(plain))
    assert pack(packed) == 1
    assert type(packed) is PackedLinear
    x = torch.randn(shape).to(torch.bfloat16)
    results = []
    for layer, dtype in ((plain.float(), torch.float32), (packed, torch.bfloat16)):
        leaf = x.to(dtype).requires_grad_()
        y = layer(leaf)
        (y.float() ** 2).sum().backward()
        assert y.shape == (*shape[:-1], 40)
        results.append((y.float(), leaf.grad.float()))
    for exact, found in zip(*results, strict=True):
        torch.testing.assert_close(found, exact, rtol=2e-2, atol=2e-2 * float(exact.detach().abs().max()))


@needs_packing
def test_a_strided_input_and_an_empty_one():
    layer = frozen()
    expected = layer(torch.ones(3, 24, dtype=torch.bfloat16))
    pack(layer)
    strided = torch.ones(24, 3, dtype=torch.bfloat16).t()
    torch.testing.assert_close(layer(strided), expected)
    assert layer(torch.empty(0, 24, dtype=torch.bfloat16)).shape == (0, 40)


@needs_packing
def test_what_is_packed_and_what_is_not(checkpoint: Checkpoints):
    """Frozen bfloat16 layers; not LoRA's own nor the head, and nothing in float32. Names and weights stay."""
    model = resident(checkpoint("bert"), dtype=torch.bfloat16)
    packed = [name for name, module in model.model.named_modules() if isinstance(module, PackedLinear)]
    assert any("query.base_layer" in name for name in packed)
    assert not any("lora_" in name or "classifier" in name for name in packed)
    assert not any(isinstance(m, PackedLinear) for m in resident(checkpoint("bert")).model.modules())


@needs_packing
def test_a_pickle_leaves_the_packed_form_behind():
    layer = frozen()
    pack(layer)
    x = torch.randn(2, 24, dtype=torch.bfloat16)
    y = layer(x)
    again = pickle.loads(pickle.dumps(layer))
    assert not [name for name in vars(again) if name.startswith("_packed")]
    assert torch.equal(again(x), y)
