from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

from polyrank.config import ModelConfig, TrainingConfig
from polyrank.core.errors import ModelError
from polyrank.federation.loading import participant
from polyrank.hf.files import quiet
from polyrank.hf.load import load_base
from polyrank.hf.quantized import QuantizedLinear, quantize
from polyrank.hf.resident import ResidentModel
from polyrank.training.batched.engine import Batched
from polyrank.training.evaluate import evaluate
from polyrank.training.sequential import Sequential
from polyrank.training.work import Work
from tests.conftest import Configure
from tests.models import LABELS, TASK, Checkpoints, examples, random_adapter, resident, updates

functional = pytest.importorskip("bitsandbytes.functional")

RANKS = {"c1": 1, "c2": 4, "c3": 2}
CPU = torch.device("cpu")


def packed(model: nn.Module) -> dict[str, QuantizedLinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}


@pytest.mark.parametrize("form", ["nf4", "int8"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_weights_are_those_that_transformers_would_compute_with(
    checkpoint: Checkpoints, architecture: str, form: str
):
    """Of each layer, by bitsandbytes' own unpacking; GPT-2's layers are the other way round. The score stays.

    Widths are multiples of 64: for others bitsandbytes 0.50.2 unpacks wrong numbers on a CPU, 31 to 88 % away.
    """
    wide = {"n_embd": 64, "n_inner": 128} if architecture == "gpt2" else {"hidden_size": 64, "intermediate_size": 128}
    folder = checkpoint(architecture, **wide)
    asked = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"} if form == "nf4" else {"load_in_8bit": True}
    with quiet():
        theirs = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder, quantization_config=transformers.BitsAndBytesConfig(**asked), dtype=torch.float32
        )
    base = load_base(ModelConfig(name=str(folder)), LABELS)
    count = quantize(base.model, form, base.head_modules, CPU)
    found = packed(base.model)
    assert count == len(found) == (14 if architecture == "llama" else 8)
    assert type(base.model.score) is nn.Linear
    for name, layer in found.items():
        weight = theirs.get_submodule(name).weight
        expected = (
            functional.dequantize_4bit(weight.data, weight.quant_state)
            if form == "nf4"
            else functional.int8_vectorwise_dequant(weight.data, weight.SCB)
        )
        assert torch.equal(layer.dense(), expected), name
        assert (layer.out_features, layer.in_features) == expected.shape


@pytest.mark.parametrize("form", ["nf4", "int8"])
@pytest.mark.parametrize("shape", [(3, 5), (7, 24), (30, 160), (40, 64)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_layer_by_hand(form: str, shape: tuple[int, int], dtype: torch.dtype):
    """Both products are those of the dense weights, which are near to what they were; the packed ones are small."""
    torch.manual_seed(0)
    plain = nn.Linear(shape[1], shape[0]).to(dtype).requires_grad_(False)
    layer, empty = (QuantizedLinear(plain, form, torch.device(where)) for where in ("cpu", "meta"))
    for one, other in ((layer.weight, empty.weight), (layer.scales, empty.scales)):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
    dense = layer.dense()
    assert dense.dtype == dtype
    assert (dense - plain.weight).norm() < (0.15 if form == "nf4" else 0.01) * plain.weight.norm()
    count = plain.weight.numel()
    assert layer.packed_bytes == (-(-count // 64) * (32 + 4) if form == "nf4" else count + 4 * shape[0])
    assert layer.count == count
    assert [name for name, value in layer.named_parameters() if not value.requires_grad] == ["bias"]
    x = torch.randn(2, 3, shape[1], dtype=dtype, requires_grad=True)
    y = layer(x)
    assert torch.equal(y, nn.functional.linear(x, dense, plain.bias))
    grad = torch.randn_like(y)
    (found,) = torch.autograd.grad(y, x, grad)
    assert torch.equal(found, grad @ dense)


@pytest.mark.parametrize("form", ["nf4", "int8"])
@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama"])
def test_the_update_is_that_over_the_dequantised_base(checkpoint: Checkpoints, architecture: str, form: str):
    """To 1e-10 in float64, in both engines, with dropout, also where layers are recomputed, and after an evaluation."""
    options = {"dtype": torch.float64, "attention": "sdpa", "dropout": 0.1, "targets": "all-linear"}
    model, dense = (resident(checkpoint(architecture), quantization=how, **options) for how in (form, "none"))
    for name, layer in model.layers.items():
        plain, own = dense.layers[name].get_base_layer(), layer.get_base_layer()
        assert isinstance(own, QuantizedLinear)
        weight = own.dense()
        plain.weight.data.copy_(weight.T if isinstance(plain, Conv1D) else weight)
    assert len(packed(model.model)) == len(model.layers)
    held = {name: examples(model, 5 + i, seed=i) for i, name in enumerate(RANKS)}
    works = [
        Work(name, 1, random_adapter(model, i, rank=rank, uneven=False), seed=i)
        for i, (name, rank) in enumerate(RANKS.items())
    ]
    training = TrainingConfig(batch_size=4, lr=0.01, optimizer="sgd")
    again = training.model_copy(update={"gradient_checkpointing": True})
    expected = updates(Sequential(dense, TASK, held, training), works)
    model.install(works[0].adapter)
    dense.install(works[0].adapter)
    scores = [TASK.measured(evaluate(one, TASK, held["c1"], 3)) for one in (model, dense)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-10)
    ways = (Sequential(model, TASK, held, training), Batched(model, TASK, held, training, 3))
    for way in (*ways, Batched(model, TASK, held, again, 3)):
        for update, right, start in zip(updates(way, works), expected, works, strict=True):
            for (name, tensor), (_, want), (_, before) in zip(
                *(each.adapter.tensors() for each in (update, right, start)), strict=True
            ):
                assert (want - before).norm() > 0
                assert (tensor - want).norm() <= 1e-10 * (want - before).norm(), name


def test_what_is_not_quantised(checkpoint: Checkpoints):
    """Head, pooler where it is new, the layer that gives words, embeddings and norms."""
    bert = resident(checkpoint("bert", pooler=False), head="model", quantization="nf4")
    assert len(packed(bert.model)) == 12
    assert not packed(bert.model.get_submodule("bert.pooler"))
    mean = resident(checkpoint("bert"), head="mean-pool", quantization="int8")
    assert len(packed(mean.model)) == 12
    assert type(mean.model.classifier) is nn.Linear
    settings = transformers.AutoConfig.from_pretrained(checkpoint("llama"), tie_word_embeddings=True)
    writer = transformers.AutoModelForCausalLM.from_config(settings)
    quantize(writer, "nf4", (), CPU)
    assert len(packed(writer)) == 14
    assert writer.lm_head.weight is writer.model.embed_tokens.weight


def test_a_model_without_linear_layers_is_refused():
    with pytest.raises(ModelError, match="no linear layers to quantise"):
        quantize(nn.Sequential(nn.Embedding(3, 2)), "int8", (), CPU)


def test_a_checkpoint_that_was_packed_before_is_refused(checkpoint: Checkpoints, tmp_path: Path):
    source = checkpoint("llama")
    folder = tmp_path / "packed"
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    about = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "quantization_config": about}))
    with pytest.raises(ModelError, match=r"quantised by bitsandbytes.*take the checkpoint that it was made of"):
        load_base(ModelConfig(name=str(folder)), LABELS)


def test_without_the_package_the_extra_is_named(
    configure: Configure, checkpoint: Checkpoints, monkeypatch: pytest.MonkeyPatch
):
    """Before anything is read, and wherever a base is made resident."""
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else real(name))
    wanted = (
        "model.quantization is 'nf4', which needs bitsandbytes, and it is not installed: "
        "pip install 'polyrank[quantized]'"
    )
    with pytest.raises(ModelError) as said:
        participant(configure("model.quantization=nf4"))
    assert str(said.value) == wanted
    base = load_base(ModelConfig(name=str(checkpoint("bert")), quantization="nf4"), LABELS)
    with pytest.raises(ModelError, match="needs bitsandbytes"):
        ResidentModel(base)


def test_a_federation_over_a_quantised_base(configure: Configure):
    """The site says what it is of: shapes and digests are those of the base as it is."""
    plain, four = (participant(configure(f"model.quantization={how}")) for how in ("none", "nf4"))
    assert four.facts("client-00") == plain.facts("client-00")
    work = Work("client-00", 1, four.resident.initial(2, 2.0, 3), seed=5)
    (found,), (other,) = (site.engine.run([work]) for site in (four, plain))
    assert found.trained
    assert other.trained
    assert found.trained.keys() == other.trained.keys()
    assert any(not torch.equal(tensor, other.trained[name]) for name, tensor in found.trained.items())
