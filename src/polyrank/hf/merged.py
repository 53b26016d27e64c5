"""A base model with an adapter added into its weights, as a folder of its own."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from polyrank.config import ModelConfig
from polyrank.core.adapter import Adapter
from polyrank.core.errors import AdapterError, ModelError
from polyrank.hf.beside import Beside, generation_of
from polyrank.hf.classes import HEAD, LABELS, has_mean_pool_head
from polyrank.hf.files import quiet
from polyrank.hf.load import BaseModel, checkpoint_classes, load_base
from polyrank.hf.mean_pool import MeanPoolClassifier
from polyrank.hf.settings import as_saved


def merge_into(base: BaseModel, adapter: Adapter) -> None:
    """Add every delta into the base's own weights, and set the head; in place.

    Raises:
        AdapterError: the adapter names a linear layer or tensor that the model lacks, one of another shape, one that
            holds quantised weights, or one that another layer shares, which would change too; nothing is changed.
    """
    layers = {name: layer for name, layer in base.model.named_modules() if isinstance(layer, nn.Linear | Conv1D)}
    parameters = dict(base.model.named_parameters())
    everywhere = list(base.model.named_parameters(remove_duplicate=False))
    deltas: dict[str, Tensor] = {}
    for name, factors in adapter.modules.items():
        delta = factors.delta()
        deltas[f"{name}.weight"] = delta.T if isinstance(layers.get(name), Conv1D) else delta
    problems = [f"it lacks {name}" for name in sorted({*adapter.modules} - layers.keys())]
    for name in sorted({*adapter.modules} & layers.keys()):
        if not layers[name].weight.is_floating_point():
            problems.append(f"its {name} holds quantised weights")
    by_name = dict(everywhere)
    for name in sorted(by_name.keys() & {*deltas, *adapter.dense}):
        shared = [each for each, own in everywhere if own is by_name[name] and each != name]
        layer = name.removesuffix(".weight")
        problems += [f"its {layer} shares its weight with {each.removesuffix('.weight')}" for each in shared]
    for name, tensor in {**deltas, **adapter.dense}.items():
        found = by_name.get(name)
        if found is None and name in adapter.dense:
            problems.append(f"it lacks {name}")
        elif found is not None and found.shape != tensor.shape:
            problems.append(f"its {name} is {tuple(found.shape)}, the adapter's {tuple(tensor.shape)}")
    if problems:
        raise AdapterError(f"the adapter does not fit {base.config.name}: {'; '.join(problems)}")
    with torch.no_grad():
        for name, delta in deltas.items():
            parameters[name].add_(delta.to(parameters[name]))
        for name, tensor in adapter.dense.items():
            parameters[name].copy_(tensor)


def write_merged(
    folder: Path,
    base: BaseModel,
    adapter: Adapter,
    labels: tuple[str, ...],
    *,
    beside: Beside | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Merge and save.

    With the architecture's own head the folder is an ordinary transformers classifier. With a mean-pooling head it is
    the encoder (``AutoModel`` loads it) with the head beside it; `load_merged` puts them together. A model that writes
    is what ``AutoModelForCausalLM`` loads, ends where answers end, and keeps keys and values as its base did.

    Args:
        folder: to write.
        base: as it was loaded; the adapter is added to it in place, in its own dtype.
        adapter: of the base.
        labels: names of the classes.
        beside: what lies beside a model that writes.
        dtype: of the written weights; by default that of the base.
    """
    merge_into(base, adapter)
    model: PreTrainedModel = base.model.to(dtype) if dtype is not None else base.model
    if beside is not None:
        as_saved(model.config, base.config)
        model.generation_config = beside.ending(generation_of(base.config))
        with quiet():
            model.save_pretrained(folder)
        beside.save(folder, model.generation_config)
        return
    if isinstance(model, MeanPoolClassifier):
        model.encoder.save_pretrained(folder)
        save_file({k: v.contiguous() for k, v in model.classifier.state_dict().items()}, folder / HEAD)
        (folder / LABELS).write_text(json.dumps(labels) + "\n", encoding="utf-8")
    else:
        model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)


def load_merged(folder: Path | str) -> BaseModel:
    """A merged model with its mean-pooling head, as `write_merged` left it.

    Raises:
        ModelError: the folder has no such head; `AutoModelForSequenceClassification` loads it then.
    """
    if not has_mean_pool_head(str(folder)):
        raise ModelError(f"{folder} has no {HEAD}; load it with AutoModelForSequenceClassification.from_pretrained")
    config = ModelConfig(name=str(folder), head="mean-pool")
    return load_base(config, checkpoint_classes(config))
