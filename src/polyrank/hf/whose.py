"""Whose folder it is: an adapter's that PolyRank did not write, or a whole model's, and what it belongs to."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from polyrank.config import ModelConfig
from polyrank.core.errors import AdapterError
from polyrank.hf.classes import has_mean_pool_head
from polyrank.hf.files import explained, resolve_name
from polyrank.hf.load import checkpoint_classes
from polyrank.hf.peft.folder import CLASSIFICATION, Target
from polyrank.hf.peft.settings import SETTINGS, read_settings
from polyrank.hf.peft.shared import OURS
from polyrank.hf.settings import saved_settings

log = logging.getLogger(__name__)

WRITING = "causal-lm"
"""The task of an adapter or a model that writes and says no more."""


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, or what is left of one."""
    return (folder / SETTINGS).is_file() or (folder / OURS).is_file()


def is_model(folder: Path) -> bool:
    """Whether a folder holds a whole model."""
    return (folder / "config.json").is_file()


def take_template(folder: Path, tokenizer: Any) -> None:  # Any: tokenizers have no typed base
    """Give a base's tokenizer the chat template that lies beside an adapter, if there is one, in place.

    What trains adapters saves the tokenizer with them, and its template may be none that the base has.

    Raises:
        ModelError: the tokenizer beside the adapter cannot be read.
    """
    if not (folder / "tokenizer_config.json").is_file():
        return
    with explained(str(folder), "writing"):
        own = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    if own.chat_template:
        tokenizer.chat_template = own.chat_template
    if own.get_vocab() != tokenizer.get_vocab():
        log.warning("%s has a tokenizer with other tokens than its base's, which is used", folder)


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
