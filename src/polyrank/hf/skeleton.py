"""Models without weights: the classes, names and shapes that loading gives, on torch's meta device."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import get_safetensors_metadata, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, NotASafetensorsRepoError, OfflineModeIsEnabled
from safetensors import safe_open
from torch import Tensor
from transformers import GenerationConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME

from polyrank.config import ModelConfig
from polyrank.core.files import read_whole
from polyrank.hf.files import origin

log = logging.getLogger(__name__)

META = torch.device("meta")


def from_checkpoint(auto: Any, path: str, common: Mapping[str, Any], **options: Any) -> tuple[Any, Any]:
    """``auto.from_pretrained`` and what it says of the loading; where ``common`` has a state dict, of that alone.

    Args:
        auto: a class of transformers' auto classes; Any: neither they nor what they give have a typed base.
        path: of the checkpoint.
        common: options of loading.
        **options: more of them.
    """
    asked = {"output_loading_info": True, **common, **options}
    if "state_dict" not in common:
        model, info = auto.from_pretrained(path, **asked)
        return model, info
    classes = auto._model_mapping[type(common["config"])]  # an auto class asks for a folder; its classes do not
    chosen = classes[0] if isinstance(classes, tuple) else classes
    here = {key: value for key, value in asked.items() if key not in ("revision", "local_files_only")}
    model, info = chosen.from_pretrained(None, **here)
    with contextlib.suppress(OSError):  # most that classify have none
        model.generation_config = GenerationConfig.from_pretrained(path, **_where(common))
    return model, info


def _where(common: Mapping[str, Any]) -> dict[str, Any]:  # Any: as above
    return {key: common[key] for key in ("revision", "local_files_only") if key in common}


def without_weights(path: str, config: ModelConfig, settings: Any) -> dict[str, Any]:  # Any: as in `saved_settings`
    """Options by which `from_checkpoint` makes a model on the meta device, with the tensors that the checkpoint has.

    Only the heads of weight files are read. Where there are none to be read, as beside a lone config.json, the
    checkpoint is taken to be whole, of the class that its config.json names.
    """
    if hasattr(settings, "quantization_config"):  # names and shapes are those of the layers, not of their packed form
        del settings.quantization_config
        found = None
    else:
        found = _saved(path, config)
    if found is None:
        log.info("%s: no weights to be seen; taken to be a whole %s", path, _architecture(settings))
        found = _whole(settings)
    return {"state_dict": found, "device_map": "meta"}


def _saved(path: str, config: ModelConfig) -> dict[str, Tensor] | None:
    """Name -> a tensor without values, from the heads of the weight files; None where there are none."""

    def local(name: str) -> Path | None:
        if Path(path).is_dir():
            here = Path(path) / name
            return here if here.is_file() else None
        cached = try_to_load_from_cache(path, name, revision=config.revision)
        return Path(cached) if isinstance(cached, str) else None

    for whole, index in ((SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME), (WEIGHTS_NAME, WEIGHTS_INDEX_NAME)):
        listed = local(index)
        names = sorted(set(json.loads(read_whole(listed))["weight_map"].values())) if listed else [whole]
        files = [local(name) for name in names]
        if all(file is not None for file in files):
            return {name: tensor for file in files if file is not None for name, tensor in _head(file).items()}
    return None if Path(path).is_dir() or "local_files_only" in origin(config) else _published(path, config)


def _head(file: Path) -> dict[str, Tensor]:
    """Name -> a tensor without values, of one file."""
    if file.suffix != ".safetensors":
        held: dict[str, Tensor] = torch.load(file, map_location=META, weights_only=True, mmap=True)
        return held
    with safe_open(file, "pt") as opened:
        return {name: torch.empty(opened.get_slice(name).get_shape(), device=META) for name in opened.keys()}  # noqa: SIM118


def _published(name: str, config: ModelConfig) -> dict[str, Tensor] | None:
    """The same of a model on the Hub, of which a few kilobytes are asked for."""
    try:
        files = get_safetensors_metadata(name, revision=config.revision).files_metadata.values()
    except (NotASafetensorsRepoError, HfHubHTTPError, OfflineModeIsEnabled, OSError):
        return None
    return {key: torch.empty(tensor.shape, device=META) for file in files for key, tensor in file.tensors.items()}


def _architecture(settings: Any) -> str:  # Any: as above
    return str(next(iter(getattr(settings, "architectures", None) or []), "bare model"))


def _whole(settings: Any) -> dict[str, Tensor]:  # Any: as above
    """All tensors of the class that a configuration names, or of the bare model."""
    named = getattr(transformers, _architecture(settings), None)
    with META:
        model = named(settings) if named is not None else transformers.AutoModel.from_config(settings)
    tied = dict(model.named_parameters(remove_duplicate=False)).keys() - dict(model.named_parameters()).keys()
    return {name: tensor for name, tensor in model.state_dict().items() if name not in tied}  # as it is saved
