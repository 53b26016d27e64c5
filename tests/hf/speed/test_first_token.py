from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from polyrank.config import ModelConfig
from polyrank.hf.load import load_base
from polyrank.hf.speed.first_token import read_first_token
from tests.models import LABELS, Checkpoints, batch, logits, random_adapter, resident

KNOWN = ("bert", "roberta", "distilbert")


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("architecture", KNOWN)
def test_the_same_logits_and_gradients(checkpoint: Checkpoints, architecture: str, attention: str):
    """Against the model as transformers wrote it, with padding in the batch; fewer numbers come out of the layer."""
    options = {"dtype": torch.float64, "attention": attention, "head": "model"}
    short, whole = (resident(checkpoint(architecture), **options) for _ in range(2))
    stack = getattr(whole.model, whole.model.base_model_prefix)
    last = (stack.transformer if architecture == "distilbert" else stack.encoder).layer[-1]
    assert "forward" in vars(last)
    del last.forward
    sizes: list[int] = []
    last.register_forward_hook(lambda _module, _inputs, output: sizes.append(output.shape[1]))
    found = []
    for model in (short, whole):
        model.install(random_adapter(model))
        inputs = batch(model)
        result = model.model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask).logits
        result.square().sum().backward()
        found.append([result, *(parameter.grad for parameter in model.trainable())])
    assert sizes == [inputs.input_ids.shape[1]]
    assert sizes[0] > 1
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("architecture", "head"), [("bert", "mean-pool"), ("llama", "model"), ("albert", "model")])
def test_others_stay_as_they_are(checkpoint: Checkpoints, architecture: str, head: str):
    """A mean over the tokens reads all of them, a decoder's head the last, and ALBERT's layers are one."""
    base = load_base(ModelConfig(name=str(checkpoint(architecture)), head=head), LABELS)
    before = deepcopy(base.model)
    assert not read_first_token(base.model)
    inputs = batch(resident(checkpoint(architecture), head=head))
    assert torch.equal(logits(base.model, inputs), logits(before, inputs))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("chunk_size_feed_forward", 3),
        ("output_attentions", True),
        ("output_hidden_states", True),
        ("is_decoder", True),
        ("add_cross_attention", True),
        ("num_hidden_layers", 0),
    ],
)
@pytest.mark.parametrize("architecture", ["bert", "distilbert"])
def test_it_steps_aside_where_a_configuration_asks_for_more(
    checkpoint: Checkpoints, architecture: str, setting: str, value: object
):
    """On a model as transformers makes it: the last layer stays whole."""
    settings = AutoConfig.from_pretrained(checkpoint(architecture), attn_implementation="eager")
    setattr(settings, setting, value)
    if setting == "add_cross_attention":
        settings.is_decoder = True
    elif setting == "num_hidden_layers" and architecture == "distilbert":
        settings.n_layers = 0
    model = AutoModelForSequenceClassification.from_config(settings)
    assert not read_first_token(model)
    assert not any("forward" in vars(module) for module in model.modules())


def test_it_steps_aside_where_layers_are_recomputed(checkpoint: Checkpoints):
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint("bert"))
    model.gradient_checkpointing_enable()
    assert not read_first_token(model)
    model.gradient_checkpointing_disable()
    assert read_first_token(model)
