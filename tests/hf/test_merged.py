from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from polyrank.config import ModelConfig
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import AdapterError, ModelError
from polyrank.hf.files import quiet
from polyrank.hf.load import BaseModel, checkpoint_classes, load_base
from polyrank.hf.merged import load_merged, merge_into, write_merged
from polyrank.hf.quantized import quantize
from polyrank.hf.resident import ResidentModel
from tests import writers
from tests.models import ARCHITECTURES, LABELS, Checkpoints, batch, logits, random_adapter, resident

BOTH_HEADS = [(architecture, head) for architecture in ARCHITECTURES for head in ("model", "mean-pool")]


def adapted(checkpoint: Checkpoints, architecture: str, **section: Any) -> tuple[ResidentModel, Adapter, BaseModel]:
    """A model with an adapter installed, the adapter, and the base once more."""
    model = resident(checkpoint(architecture), **section)
    adapter = random_adapter(model)
    model.install(adapter)
    return model, adapter, load_base(model.base.config, LABELS)


@pytest.mark.parametrize(("architecture", "head"), BOTH_HEADS)
def test_the_merged_folder_computes_the_same(checkpoint: Checkpoints, tmp_path: Path, architecture: str, head: str):
    """With the model's own head transformers alone loads it; nothing in it is left new."""
    model, adapter, base = adapted(checkpoint, architecture, head=head, targets="all-linear")
    inputs = batch(model)
    write_merged(tmp_path, base, adapter, LABELS)
    if head == "model":
        with quiet():
            merged, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        assert merged.config.id2label == {0: "pets", 1: "fruit"}
    else:
        merged = load_merged(tmp_path).model
        with quiet():
            AutoModel.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(merged, inputs), logits(model.model, inputs), rtol=1e-4, atol=1e-4)
    assert AutoTokenizer.from_pretrained(tmp_path).pad_token_id == model.base.tokenizer.pad_token_id


def test_a_merged_mean_pool_model_is_a_base_with_its_head(checkpoint: Checkpoints, tmp_path: Path):
    """A federation that starts from an export has its head, with the classes in whatever order; before, a new one."""
    model, adapter, base = adapted(checkpoint, "distilbert", head="mean-pool")
    inputs = batch(model)
    write_merged(tmp_path, base, adapter, LABELS)
    expected = logits(model.model, inputs)
    assert checkpoint_classes(ModelConfig(name=str(tmp_path))) == LABELS
    for labels, order in ((LABELS, [0, 1]), (LABELS[::-1], [1, 0])):
        again = load_base(ModelConfig(name=str(tmp_path)), labels)
        assert (again.config.head, again.note) == ("mean-pool", "")
        torch.testing.assert_close(logits(again.model, inputs)[:, order], expected, rtol=1e-4, atol=1e-4)
    assert "starts anew" in load_base(ModelConfig(name=str(tmp_path)), ("good", "bad")).note
    for content in ("[", "{}", '["pets", 5]'):
        (tmp_path / "labels.json").write_text(content)
        with pytest.raises(ModelError, match=r"labels\.json"):
            load_merged(tmp_path)


def test_square_transposed_weights(checkpoint: Checkpoints):
    """GPT-2's c_proj is 16 x 16 and kept as (in, out): its shape does not tell which way round the delta goes."""
    model, adapter, base = adapted(checkpoint, "gpt2", head="model", targets=["attn.c_proj"])
    assert set(model.shapes.values()) == {(16, 16)}
    name = "transformer.h.0.attn.c_proj"
    before = base.model.get_submodule(name).weight.clone()
    inputs = batch(model)
    merge_into(base, adapter)
    change = base.model.get_submodule(name).weight - before
    torch.testing.assert_close(change, adapter.modules[name].delta().T)
    torch.testing.assert_close(logits(base.model, inputs), logits(model.model, inputs), rtol=1e-4, atol=1e-4)


def test_a_weight_that_two_layers_share_is_left_alone(checkpoint: Checkpoints):
    """The delta of one would change the other as well, without a word."""
    _, adapter, base = adapted(checkpoint, "bert", head="model", targets=["query"])
    first, second = (base.model.get_submodule(f"bert.encoder.layer.{i}.attention.self.query") for i in (0, 1))
    second.weight = first.weight
    before = first.weight.clone()
    with pytest.raises(AdapterError, match=r"its bert\.\S+0\.\S+query shares its weight with bert\.\S+1\.\S+query"):
        merge_into(base, adapter)
    assert torch.equal(first.weight, before)


def test_an_adapter_that_does_not_fit_changes_nothing(checkpoint: Checkpoints):
    _, good, base = adapted(checkpoint, "bert", head="model")
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    name = next(iter(good.modules))
    small = Factors(torch.ones(1, 3), torch.ones(3, 1))
    for bad, said in (
        (replace(good, modules={**good.modules, "bert.nowhere": small}), "bert.nowhere"),
        (replace(good, modules={**good.modules, "bert.embeddings.word_embeddings": small}), "word_embeddings"),
        (replace(good, modules={**good.modules, name: small}), f"{name}.weight is (16, 16), the adapter's (3, 3)"),
        (replace(good, dense={**good.dense, "score.weight": torch.ones(2)}), "score.weight"),
        (replace(good, dense={**good.dense, "classifier.bias": torch.ones(3)}), "classifier.bias is (2,)"),
    ):
        with pytest.raises(AdapterError) as error:
            merge_into(base, bad)
        assert said in str(error.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.model.state_dict().items())


def test_folder_without_a_mean_pooling_head(checkpoint: Checkpoints):
    with pytest.raises(ModelError, match="AutoModelForSequenceClassification"):
        load_merged(checkpoint("bert"))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["lm_head", "model.embed_tokens"])
def test_whole_tables_of_words_go_only_where_nothing_else_is_changed(tmp_path: Path, name: str, tied: bool):
    """What PEFT's ``modules_to_save`` makes of them: refused in one line where the other one would change too."""
    base = load_base(ModelConfig(name=str(writers.save(tmp_path, tie_word_embeddings=tied))), ())
    before = {key: value.clone() for key, value in base.model.state_dict().items()}
    weight = base.model.get_submodule(name).weight
    adapter = Adapter({}, {f"{name}.weight": torch.ones_like(weight)})
    if tied:
        other = "model.embed_tokens" if name == "lm_head" else "lm_head"
        with pytest.raises(AdapterError, match=f"its {name} shares its weight with {other}"):
            merge_into(base, adapter)
    else:
        merge_into(base, adapter)
    for key, value in base.model.state_dict().items():
        assert torch.equal(value, torch.ones_like(value) if key == f"{name}.weight" and not tied else before[key])


def test_nothing_is_merged_into_packed_weights(checkpoint: Checkpoints):
    pytest.importorskip("bitsandbytes")
    model = resident(checkpoint("llama"), quantization="nf4")
    base = load_base(model.base.config, LABELS)
    quantize(base.model, "nf4", base.head_modules, torch.device("cpu"))
    with pytest.raises(AdapterError, match="q_proj holds quantised weights"):
        merge_into(base, random_adapter(model))
