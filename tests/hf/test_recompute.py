from __future__ import annotations

import pytest
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from polyrank.core.errors import ModelError
from polyrank.hf.recompute import recomputed, repeated_layers
from polyrank.training.dropout import ClientDropout
from tests.models import Checkpoints, resident


@pytest.mark.parametrize(("architecture", "head"), [("bert", "model"), ("bert", "mean-pool"), ("gpt2", "model")])
def test_layers_are_found_and_left_as_they_were(checkpoint: Checkpoints, architecture: str, head: str):
    """Also where the last one has a forward of its own, and after an error; as many as were asked for stay whole."""
    model = resident(checkpoint(architecture), head=head).model
    layers = [layer for _, layer in repeated_layers(model)]
    assert len(layers) == 2
    before = [layer.__dict__.get("forward") for layer in layers]
    assert (before[-1] is not None) == ((architecture, head) == ("bert", "model"))
    with recomputed(model, ClientDropout.recomputing, whole=1):
        assert layers[0].__dict__["forward"] is not before[0]
        assert layers[1].__dict__.get("forward") is before[1]
    with pytest.raises(RuntimeError), recomputed(model, ClientDropout.recomputing):  # noqa: PT012
        assert all(layer.__dict__["forward"] is not own for layer, own in zip(layers, before, strict=True))
        raise RuntimeError
    assert [layer.__dict__.get("forward") for layer in layers] == before


def test_of_nested_layers_the_outermost():
    class Layer(GradientCheckpointingLayer):
        def __init__(self, *inside: nn.Module) -> None:
            super().__init__()
            self.inside = nn.ModuleList(inside)

    model = nn.ModuleDict({"a": Layer(Layer(), nn.Identity()), "ab": nn.Sequential(Layer())})
    assert [name for name, _ in repeated_layers(model)] == ["a", "ab.0"]


def test_an_architecture_without_such_layers_is_named(checkpoint: Checkpoints):
    with pytest.raises(ModelError, match=r"an? albert model has no layers .* training\.accumulate"):
        repeated_layers(resident(checkpoint("albert")).model)
