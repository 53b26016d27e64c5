"""Load a base model, to write or under a classification head, and say which parts are new and must be trained."""

from __future__ import annotations

import inspect
import json
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification, AutoModelForTextEncoding, AutoTokenizer
from transformers.utils.hub import cached_file

from polyrank.config import ModelConfig
from polyrank.core.errors import ModelError
from polyrank.core.files import read_whole
from polyrank.core.seeds import derive, seeded
from polyrank.hf.classes import (
    has_mean_pool_head,
    is_classifier,
    mean_pool_rows,
    new_head_note,
    output_parameters,
    rows_for,
    saved_classes,
    start_anew,
    take_rows,
)
from polyrank.hf.files import explained, origin, resolve_name
from polyrank.hf.mean_pool import MeanPoolClassifier
from polyrank.hf.settings import check_not_packed, end_token, for_logits, positions, saved_settings
from polyrank.hf.skeleton import from_checkpoint, without_weights
from polyrank.hf.writers import load_writer

log = logging.getLogger(__name__)

Head = Literal["model", "mean-pool"]


@dataclass(frozen=True, eq=False)
class BaseModel:
    """A loaded model, frozen but for nothing yet, and what belongs to it.

    Args:
        model: gives ``.logits`` for ``input_ids`` and ``attention_mask``.
        tokenizer: the model's own, with a padding token.
        head_modules: names of the modules that are new and hence trained whole and sent.
        config: the model section that loaded it, with ``head`` resolved.
        note: what a user should know of the head; empty where there is nothing.
    """

    model: nn.Module
    tokenizer: Any  # transformers' tokenizers have no common typed base
    head_modules: tuple[str, ...]
    config: ModelConfig
    note: str = ""


def checkpoint_classes(config: ModelConfig) -> tuple[str, ...]:
    """Names of the classes in the order of the checkpoint's own head; none where it has no head for classes of texts.

    Raises:
        ModelError: it cannot be loaded.
    """
    path = resolve_name(config.name)
    with explained(config.name):
        return saved_classes(path, saved_settings(path, config))


def load_tokenizer(config: ModelConfig) -> Any:  # Any: transformers' tokenizers have no common typed base
    """The model's tokenizer, with a padding token (the end token, where it has none of its own).

    Its ``model_max_length`` is at most the number of the model's positions: many tokenizers name no limit.

    Raises:
        ModelError: it cannot be loaded, has neither token, or lacks the end that the model's head looks for.
    """
    path = resolve_name(config.name)
    with explained(config.name):
        return _checked(AutoTokenizer.from_pretrained(path, **origin(config)), saved_settings(path, config))


def _checked(tokenizer: Any, settings: Any) -> Any:  # Any: transformers' tokenizers and configurations
    """The tokenizer with a padding token and a length, see `load_tokenizer`."""
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # transformers makes one up where the files are missing
        raise ModelError("it has no tokenizer; save it with the model: tokenizer.save_pretrained")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise ModelError("its tokenizer has neither a padding nor an end token; add one to it")
    longest = positions(settings, tokenizer.pad_token_id)
    if longest is not None:
        tokenizer.model_max_length = min(tokenizer.model_max_length, longest)
    end = end_token(settings)
    if end is not None and (tokenizer.pad_token_id == end or end not in tokenizer("")["input_ids"]):
        found = "pads with it" if tokenizer.pad_token_id == end else "does not end texts with it"
        raise ModelError(
            f"its head looks for the end token {tokenizer.convert_ids_to_tokens(end)!r}, and its tokenizer {found}; "
            "take the tokenizer that the model was trained with"
        )
    return tokenizer


def head_end_token(config: ModelConfig) -> int | None:
    """The token that the model's head looks for, and needs equally often in all texts; None where it looks for none.

    Raises:
        ModelError: the model cannot be loaded.
    """
    path = resolve_name(config.name)
    with explained(config.name):
        return end_token(saved_settings(path, config))


def load_base(
    config: ModelConfig,
    labels: Sequence[str],
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    attention: str | None = None,
    weights: bool = True,
) -> BaseModel:
    """Load ``config.name`` for a classification into ``labels``; without labels, as a model that writes.

    New head parameters are drawn from ``seed`` and kept in float32 or wider, whatever the dtype of the base. A head
    that was trained for the same classes is kept, its rows in the order of ``labels``; one of others starts anew.
    Without ``weights`` it is the same model on the meta device, and its tokenizer is None: config.json is enough.

    Raises:
        ModelError: the folder is no model, the hub cannot be reached, or the architecture cannot classify, or write.
    """
    path = resolve_name(config.name)
    tokenizer = load_tokenizer(config) if weights else None
    with explained(config.name, "classification" if labels else "writing"):
        settings = saved_settings(path, config)
        if weights:
            check_not_packed(settings)
        saved = Saved(path, saved_classes(path, settings) if labels else (), is_classifier(settings))
        if labels:
            settings.num_labels = len(labels)
            settings.id2label = dict(enumerate(labels))
            settings.label2id = {label: i for i, label in enumerate(labels)}
        if tokenizer is not None:
            _pad_with(tokenizer.pad_token_id, settings.get_text_config())
        for_logits(settings)
        common = {**origin(config), "config": settings, "dtype": dtype}
        common |= {} if weights else without_weights(path, config, settings)
        if attention is not None:
            common["attn_implementation"] = attention
        if labels:
            loaded = _load(saved, common, config.head, labels, derive(seed, "head"))
        else:
            loaded = _Loaded(load_writer(path, common, config.head, tokenizer), ())
    model, head_modules = loaded.model, loaded.head_modules
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for name in head_modules:
        model.get_submodule(name).to(torch.float64 if dtype == torch.float64 else torch.float32)
    model.eval()
    head: Head = "mean-pool" if isinstance(model, MeanPoolClassifier) else "model"
    note = new_head_note(config.name, saved.classes, labels) if loaded.lost else ""
    return BaseModel(model, tokenizer, head_modules, config.model_copy(update={"head": head}), note)


def _pad_with(token: int, text: Any) -> None:  # Any: every architecture has its own class
    """Name the padding token in a configuration, in place."""
    if token >= getattr(text, "vocab_size", math.inf):
        raise ModelError(f"its padding token is number {token}, beyond its {text.vocab_size} embeddings")
    text.pad_token_id = token


@dataclass(frozen=True)
class Saved:
    """A checkpoint: where it is, the names of its head's classes, and whether it was saved as a classifier of texts."""

    path: str
    classes: tuple[str, ...]
    classifies: bool


@dataclass(frozen=True, eq=False)
class _Loaded:
    """A model, the modules of its head, and whether a head that was trained is lost."""

    model: nn.Module
    head_modules: tuple[str, ...]
    lost: bool = False


def _load(saved: Saved, common: dict[str, Any], head: str, labels: Sequence[str], seed: int) -> _Loaded:
    """The model under the head that was asked for, and the modules that the checkpoint left new.

    ``auto`` takes the mean-pooling head where the backbone's own part of the head is absent or was not made for
    classifying. Absent: parameters inside the backbone are new (a pooler; ``classifier`` and the like lie outside of
    it). Not made for it: the checkpoint says of itself that a sentence is the mean of its states.
    """
    path = saved.path
    if head == "mean-pool" or (head == "auto" and (has_mean_pool_head(path) or _pools_sentences(path, common))):
        return _load_mean_pool(path, common, labels, seed)
    with seeded(seed):
        model, info = from_checkpoint(AutoModelForSequenceClassification, path, common, ignore_mismatched_sizes=True)
    mismatched = {key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]}
    parameters = {name for name, _ in model.named_parameters()}
    new = (set(info["missing_keys"]) | mismatched) & parameters
    backbone = model.base_model_prefix + "."
    inside = sorted(name for name in new if name.startswith(backbone))
    _check_backbone(inside)
    if head == "auto" and inside:
        log.info("head: mean-pool, because the checkpoint has no %s", inside[0])
        return _load_mean_pool(path, common, labels, seed)
    outside = {name for name in parameters if not name.startswith(backbone)}
    output = set() if outside <= new else set(output_parameters(model))
    if not output or output & new:  # nothing was trained for the classes, or for so many
        return _Loaded(model, _covering(model, new), lost=bool(mismatched) and saved.classifies)
    rows = rows_for(saved.classes, labels) if saved.classifies else None
    if rows is None:
        start_anew(model, output, seed)
        return _Loaded(model, _covering(model, new | output), lost=saved.classifies)
    take_rows(model, rows)  # a fine-tuned classifier of these labels: its head is trained on, as PEFT does
    return _Loaded(model, _covering(model, new | outside))


def _check_backbone(new: Iterable[str]) -> None:
    """Refuse a backbone with random weights in it: they would be frozen. Only a pooler may be new.

    Raises:
        ModelError: names what is missing.
    """
    lacking = sorted(name for name in new if "pooler" not in name.split("."))
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise ModelError(f"the checkpoint has no {lacking[0]}{more} of the shape that its configuration asks for")


def _covering(model: nn.Module, new: set[str]) -> tuple[str, ...]:
    """The outermost modules that hold new parameters only, and, where old and new ones mix, the innermost that do."""

    def all_new(module: str) -> bool:
        return bool(module) and all(f"{module}.{n}" in new for n, _ in model.get_submodule(module).named_parameters())

    found: set[str] = set()
    for name in new:
        module = name.rpartition(".")[0]
        while all_new(parent := module.rpartition(".")[0]):
            module = parent
        found.add(module)
    return tuple(sorted(found))


def _load_mean_pool(path: str, common: dict[str, Any], labels: Sequence[str], seed: int) -> _Loaded:
    """The bare encoder under a mean-pooling head, saved or new; a pooler is left out where the class lets us."""
    settings = common["config"]
    encoders = AutoModelForTextEncoding._model_mapping
    # of a T5 the encoder alone, as sentence encoders have it: its decoder reads no text of its own accord
    auto = AutoModelForTextEncoding if settings.is_encoder_decoder and type(settings) in encoders else AutoModel
    classes = auto._model_mapping[type(settings)]
    first = classes[0] if isinstance(classes, tuple) else classes
    pooler = "add_pooling_layer" in inspect.signature(first.__init__).parameters
    with seeded(seed):
        bare = {"add_pooling_layer": False} if pooler else {}
        encoder, info = from_checkpoint(auto, path, common, ignore_mismatched_sizes=True, **bare)
    mismatched = {key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]}
    _check_backbone(set(info["missing_keys"]) | mismatched)
    if encoder.main_input_name != "input_ids":
        raise ModelError(f"a {encoder.config.model_type} model reads {encoder.main_input_name}; expected one of text")
    with seeded(seed):
        model = MeanPoolClassifier(encoder, len(labels))
    lost = False
    if has_mean_pool_head(path):
        head = mean_pool_rows(path, labels)
        lost = head is None
        model.classifier.load_state_dict(head or model.classifier.state_dict())
    return _Loaded(model, ("classifier",), lost)


def _pools_sentences(path: str, common: dict[str, Any]) -> bool:
    """Whether the checkpoint is a sentence encoder, as its ``modules.json`` says."""
    origin = {key: common[key] for key in ("revision", "local_files_only") if key in common}
    found = cached_file(path, "modules.json", _raise_exceptions_for_missing_entries=False, **origin)
    if found is None:
        return False
    modules = json.loads(read_whole(Path(found)))
    pools = any("Pooling" in str(module.get("type")) for module in modules)
    if pools:
        log.info("head: mean-pool, because %s is a sentence encoder", path)
    return pools
