"""What lies beside the weights of a model that writes: its tokenizer with the template, and the tokens that end it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from polyrank.config import ModelConfig
from polyrank.hf.files import origin, quiet, resolve_name


@dataclass(frozen=True, eq=False)
class Beside:
    """What whoever serves a model needs to ask it as it was trained.

    Args:
        tokenizer: the base's.
        stops: tokens that end an answer, ascending.
        chat_template: how prompts were written in training, as a chat template; None for the tokenizer's own.
    """

    tokenizer: Any  # Any: transformers' tokenizers have no typed base
    stops: tuple[int, ...]
    chat_template: str | None = None

    def save(self, folder: Path, generation: GenerationConfig) -> None:
        """Write the tokenizer's files and ``generation_config.json``.

        Args:
            folder: of the model or the adapter.
            generation: what the base says of generating.
        """
        tokenizer = copy.copy(self.tokenizer)
        if self.chat_template is not None:
            tokenizer.chat_template = self.chat_template
        with quiet():
            tokenizer.save_pretrained(folder)
            self.ending(generation).save_pretrained(folder)

    def ending(self, generation: GenerationConfig) -> GenerationConfig:
        """The same, ending where answers end.

        Checkpoints name temperatures without sampling, which transformers loads and does not save: it samples then.
        """
        found = copy.deepcopy(generation)
        found.eos_token_id = list(self.stops)
        if found.pad_token_id is None:
            found.pad_token_id = self.tokenizer.pad_token_id
        if any(getattr(found, key, None) not in (None, default) for key, default in _SAMPLING.items()):
            found.do_sample = True
        return found


_SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": 50, "min_p": None, "typical_p": 1.0}
"""What says something where a model samples, and its default."""


def generation_of(config: ModelConfig) -> GenerationConfig:
    """What a checkpoint says of generating: its generation_config.json, else what its config.json implies.

    Raises:
        OSError: there is neither.
    """
    path, where = resolve_name(config.name), {k: v for k, v in origin(config).items() if k != "trust_remote_code"}
    with quiet():
        try:
            return GenerationConfig.from_pretrained(path, **where)
        except OSError:
            from transformers import AutoConfig

            return GenerationConfig.from_model_config(AutoConfig.from_pretrained(path, **origin(config)))
