"""What a model writes: the likeliest token each time, or one that is drawn, until one that ends an answer."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig

from polyrank.core.seeds import seeded
from polyrank.hf.files import quiet


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn instead of taking the likeliest.

    Args:
        temperature: what logits are divided by, above 0.
        top_p: drawn from the likeliest tokens whose probabilities together reach this.
        seed: of each answer, whatever else is written beside it.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0


@torch.inference_mode()
def write(
    model: nn.Module,
    openings: Sequence[Sequence[int]],
    *,
    stops: Collection[int],
    pad: int,
    most: int,
    at_a_time: int = 8,
    sampling: Sampling | None = None,
) -> list[list[int]]:
    """The tokens that follow on each opening, without the one that ends them.

    Openings are padded on the left, so that an unequal batch gives what one by one gives; where tokens are drawn, it is
    one by one, each from the seed. What the checkpoint says of
    sampling, penalties and lengths is not used.

    Args:
        model: causal, of transformers, in evaluation mode.
        openings: tokens, at least one each.
        stops: tokens that end an answer.
        pad: the token that fills a batch up.
        most: tokens that are written at most.
        at_a_time: openings in a batch.
        sampling: how tokens are drawn; None for the likeliest each time.
    """
    settings = GenerationConfig(
        max_new_tokens=most,
        num_beams=1,
        use_cache=True,
        eos_token_id=sorted(stops),
        pad_token_id=pad,
        **_drawn(sampling),
    )
    at_a_time = at_a_time if sampling is None else 1
    device = next(model.parameters()).device
    by_length = sorted(range(len(openings)), key=lambda i: -len(openings[i]))
    found: dict[int, list[int]] = {}
    with _only(model, settings), quiet():
        for start in range(0, len(openings), at_a_time):
            chosen = by_length[start : start + at_a_time]
            longest = max(len(openings[i]) for i in chosen)
            ids = torch.full((len(chosen), longest), pad, dtype=torch.int64)
            mask = torch.zeros_like(ids)
            for row, i in enumerate(chosen):
                ids[row, longest - len(openings[i]) :] = torch.as_tensor(openings[i])
                mask[row, longest - len(openings[i]) :] = 1
            named: Any = model  # Any: a model's methods have no types
            with seeded(sampling.seed, device) if sampling else nullcontext():
                written = named.generate(input_ids=ids.to(device), attention_mask=mask.to(device))
            for i, own in zip(chosen, written[:, longest:].tolist(), strict=True):
                found[i] = _until(own, stops)
    return [found[i] for i in range(len(openings))]


def _drawn(sampling: Sampling | None) -> dict[str, Any]:  # Any: numbers, as GenerationConfig takes them
    if sampling is None:
        return {"do_sample": False}
    return {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}


def _until(tokens: Sequence[int], stops: Collection[int]) -> list[int]:
    """What comes before the first token that ends an answer."""
    end = next((i for i, token in enumerate(tokens) if token in stops), len(tokens))
    return list(tokens[:end])


@contextmanager
def _only(model: Any, settings: GenerationConfig) -> Iterator[None]:  # Any: as above
    """Let the model write as the settings say, and as nothing else does."""
    before = model.generation_config
    model.generation_config = settings
    try:
        yield
    finally:
        model.generation_config = before


def saved_stops(model: Any) -> frozenset[int]:  # Any: as above
    """Tokens that end an answer by the checkpoint's own account."""
    found = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return frozenset(() if found is None else [found] if isinstance(found, int) else found)
