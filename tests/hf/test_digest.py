from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from polyrank.config import ModelConfig
from polyrank.hf.digest import model_digests
from tests import models

WEIGHTS, SETTINGS, VOCABULARY = "model's weights", "model's configuration", "vocabulary"


def of(folder: Path) -> dict[str, str]:
    return model_digests(ModelConfig(name=str(folder)))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return models.save(tmp_path / "bert", "bert")


def test_a_copy_elsewhere_is_the_same_model(model: Path, tmp_path: Path):
    found = of(model)
    assert found.keys() == {WEIGHTS, SETTINGS, VOCABULARY}
    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    (copy / "README.md").write_text("not loaded", encoding="utf-8")
    (copy / "pytorch_model.bin").write_bytes(b"not loaded where there is model.safetensors")
    assert of(copy) == found


def changed(model: Path, before: dict[str, str]) -> set[str]:
    after = of(model)
    return {name for name in before if before[name] != after[name]}


def test_one_number_of_the_weights_in_place(model: Path):
    """The size of the file stays, and it is read again in the same process."""
    before, file = of(model), model / "model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values())).view(-1)[0] += 1
    size = file.stat().st_size
    save_file(tensors, file, metadata={"format": "pt"})
    assert file.stat().st_size == size
    assert changed(model, before) == {WEIGHTS}


def test_a_word_of_the_vocabulary(model: Path):
    before, file = of(model), model / "tokenizer.json"
    text = file.read_text(encoding="utf-8")
    assert '"apple"' in text
    file.write_text(text.replace('"apple"', '"appel"'), encoding="utf-8")
    assert changed(model, before) == {VOCABULARY}


def test_the_configuration(model: Path):
    before, file = of(model), model / "config.json"
    file.write_text(file.read_text(encoding="utf-8").replace('"gelu"', '"relu"'), encoding="utf-8")
    assert changed(model, before) == {SETTINGS}


def test_every_shard_counts(model: Path):
    """Two files and their index in the place of one; then a number of the second one changes."""
    tensors = load_file(model / "model.safetensors")
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[:3], "model-00002-of-00002.safetensors": names[3:]}
    for file, own in shards.items():
        save_file({name: tensors[name] for name in own}, model / file, metadata={"format": "pt"})
    index = ", ".join(f'"{name}": "{file}"' for file, own in shards.items() for name in own)
    (model / "model.safetensors.index.json").write_text(f'{{"weight_map": {{{index}}}}}', encoding="utf-8")
    (model / "model.safetensors").unlink()
    before = of(model)
    tensors[names[-1]] = torch.zeros_like(tensors[names[-1]]) + 3
    save_file({name: tensors[name] for name in names[3:]}, model / list(shards)[1], metadata={"format": "pt"})
    assert changed(model, before) == {WEIGHTS}


def test_an_adapter_that_transformers_would_load_on_top_counts(model: Path):
    before = of(model)
    (model / "adapter_config.json").write_text("{}", encoding="utf-8")
    assert changed(model, before) == {WEIGHTS}
