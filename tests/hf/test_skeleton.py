from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers

from polyrank.config import ModelConfig
from polyrank.core.errors import ModelError
from polyrank.hf import skeleton
from polyrank.hf.load import load_base
from polyrank.hf.resident import ResidentModel
from polyrank.hf.skeleton import META
from tests import models
from tests.models import Checkpoints


def shapes(config: ModelConfig, labels: tuple[str, ...], *, weights: bool) -> dict[str, object]:
    """What of a model is sent and held: modules, the head, its way to pool, and the base's parameters."""
    device = torch.device("cpu") if weights else META
    resident = ResidentModel(load_base(config, labels, weights=weights), device)
    adapter = resident.initial(3, 1.0, 0)
    assert {tensor.device.type for _, tensor in adapter.tensors()} == {device.type}
    return {
        "tensors": {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in adapter.tensors()},
        "head": (resident.base.head_modules, resident.base.config.head),
        "parameters": {name: tuple(p.shape) for name, p in resident.model.named_parameters()},
    }


def same(folder: Path, labels: tuple[str, ...] = models.LABELS, **options: object) -> bool:
    config = ModelConfig.model_validate({"name": str(folder), **options})
    return shapes(config, labels, weights=True) == shapes(config, labels, weights=False)


@pytest.mark.parametrize("options", [{}, {"pooler": False}, {"classifier": 2}, {"sentence_encoder": True}], ids=str)
@pytest.mark.parametrize("architecture", [*models.ARCHITECTURES, "bart", "t5"])
def test_a_classifier_is_the_loaded_one(checkpoint: Checkpoints, architecture: str, options: dict[str, object]):
    """Which head is new, and whether it pools, is decided by the names of the tensors that the checkpoint has."""
    folder = checkpoint(architecture, **options)
    assert same(folder)
    assert same(folder, ("a", "b", "c"), targets="all-linear")


@pytest.fixture
def writer(tmp_path: Path) -> Path:
    """A tiny Llama that writes, with tied embeddings, in several files."""
    words = {"vocab_size": len(models.WORDS), "bos_token_id": 2, "eos_token_id": 3, "tie_word_embeddings": True}
    settings = transformers.LlamaConfig(**models.CONFIGS["llama"], **words)
    model = transformers.LlamaForCausalLM(settings)
    model.save_pretrained(tmp_path / "writer", max_shard_size="4KB")
    models.save_tokenizer(tmp_path / "writer", decoder=True)
    assert (tmp_path / "writer" / "model.safetensors.index.json").is_file()
    return tmp_path / "writer"


def test_a_model_that_writes_is_the_loaded_one(writer: Path):
    assert same(writer, ())
    assert same(writer, (), targets=["q_proj", "v_proj"])


def test_config_json_is_enough_and_is_taken_at_its_word(writer: Path, tmp_path: Path):
    """Neither tokenizer nor weights; the class that it names says what a checkpoint of it has."""
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(writer / "config.json", alone)
    whole = ModelConfig(name=str(writer))
    lone = ModelConfig(name=str(alone))
    for labels in ((), models.LABELS):
        assert shapes(lone, labels, weights=False) == shapes(whole, labels, weights=True)


def test_weights_in_torch_s_own_file_are_read_by_name(checkpoint: Checkpoints, tmp_path: Path):
    """A BERT without a pooler: only its file says so."""
    folder = tmp_path / "bin"
    shutil.copytree(checkpoint("bert", pooler=False), folder)
    model = transformers.AutoModel.from_pretrained(folder, add_pooling_layer=False)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    found = shapes(ModelConfig(name=str(folder)), models.LABELS, weights=False)
    assert found["head"] == (("classifier",), "mean-pool")


def test_of_a_model_on_the_hub_only_the_heads_of_its_files_are_asked_for(
    checkpoint: Checkpoints, monkeypatch: pytest.MonkeyPatch
):
    held = {name: SimpleNamespace(shape=list(t.shape)) for name, t in _held(checkpoint("bert", pooler=False)).items()}
    monkeypatch.setattr(skeleton, "origin", lambda _: {})
    monkeypatch.setattr(
        *(skeleton, "get_safetensors_metadata"),
        lambda name, revision: SimpleNamespace(files_metadata={"model.safetensors": SimpleNamespace(tensors=held)}),  # noqa: ARG005
    )
    settings = transformers.AutoConfig.from_pretrained(checkpoint("bert", pooler=False))
    found = skeleton.without_weights("somebody/bert", ModelConfig(name="somebody/bert"), settings)
    assert {name: tuple(t.shape) for name, t in found["state_dict"].items()} == {
        name: tuple(own.shape) for name, own in held.items()
    }
    assert {tensor.device for tensor in found["state_dict"].values()} == {META}


def _held(folder: Path) -> dict[str, torch.Tensor]:
    return transformers.AutoModel.from_pretrained(folder, add_pooling_layer=False).state_dict()


def test_a_damaged_file_is_named_in_one_line(checkpoint: Checkpoints, tmp_path: Path):
    folder = tmp_path / "damaged"
    shutil.copytree(checkpoint("bert"), folder)
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot be loaded for classification") as raised:
        load_base(ModelConfig(name=str(folder)), models.LABELS, weights=False)
    assert "\n" not in str(raised.value)


def test_a_quantised_checkpoint_has_the_shapes_of_its_layers(writer: Path):
    """Its files hold packed weights; what is adapted are the layers, which config.json describes."""
    plain = shapes(ModelConfig(name=str(writer)), (), weights=False)
    settings = json.loads((writer / "config.json").read_text())
    settings["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (writer / "config.json").write_text(json.dumps(settings))
    assert shapes(ModelConfig(name=str(writer)), (), weights=False) == plain
