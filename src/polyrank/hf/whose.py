"""Whose folder it is: an adapter's that PolyRank did not write, or a whole model's, and what it belongs to."""

from __future__ import annotations

from pathlib import Path

from polyrank.config import ModelConfig
from polyrank.core.errors import AdapterError
from polyrank.hf.classes import has_mean_pool_head
from polyrank.hf.files import explained, resolve_name
from polyrank.hf.load import checkpoint_classes
from polyrank.hf.peft.folder import CLASSIFICATION, Target
from polyrank.hf.peft.settings import SETTINGS, read_settings
from polyrank.hf.peft.shared import OURS
from polyrank.hf.settings import saved_settings

WRITING = "causal-lm"
"""The task of an adapter or a model that writes and says no more."""


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, or what is left of one."""
    return (folder / SETTINGS).is_file() or (folder / OURS).is_file()


def is_model(folder: Path) -> bool:
    """Whether a folder holds a whole model."""
    return (folder / "config.json").is_file()


def plain_target(folder: Path) -> Target:
    """What an adapter of PEFT's belongs to, as far as its own settings say it; only one that writes says enough.

    Raises:
        AdapterError: it names no base, or is of another task.
    """
    settings = read_settings(folder)
    kind, base = settings.get("task_type"), settings.get("base_model_name_or_path")
    if kind not in (None, "CAUSAL_LM"):
        raise AdapterError(
            f"{folder} is an adapter of the task {kind} that PolyRank did not write, so that its classes and its head "
            "are not known; expected one of PolyRank's, or one of CAUSAL_LM"
        )
    if not isinstance(base, str) or not base:
        raise AdapterError(
            f"{folder / SETTINGS} names no base model; expected base_model_name_or_path, or --model NAME"
        )
    revision = settings.get("revision")
    model = ModelConfig(name=base, revision=revision if isinstance(revision, str) else None)
    return Target(model, (), (), WRITING)


def model_target(folder: Path) -> Target:
    """What a whole model is for: its head's classes, or to write.

    Raises:
        ModelError: its files cannot be read.
    """
    model = ModelConfig(name=str(folder))
    if has_mean_pool_head(str(folder)):
        return Target(model.model_copy(update={"head": "mean-pool"}), checkpoint_classes(model), (), CLASSIFICATION)
    with explained(model.name):
        names = getattr(saved_settings(resolve_name(model.name), model), "architectures", None) or []
    if any(str(name).endswith("ForSequenceClassification") for name in names):
        return Target(model.model_copy(update={"head": "model"}), checkpoint_classes(model), (), CLASSIFICATION)
    return Target(model, (), (), WRITING)
