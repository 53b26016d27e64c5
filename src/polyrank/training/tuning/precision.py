"""Which precision and attention are faster on this machine: measured on real training steps, not guessed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from polyrank.config import TrainingConfig
from polyrank.core.errors import ModelError
from polyrank.core.seeds import seeded
from polyrank.hf.resident import ResidentModel
from polyrank.tasks import Task
from polyrank.tasks.task import Examples
from polyrank.training.batches import limit, parts
from polyrank.training.local import in_training

log = logging.getLogger(__name__)

TIMED_STEPS = 3
HOPELESS = 2.0
"""A candidate whose warm-up step takes so many times the best step is not timed further."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, eq=False)
class Choice:
    """The fastest candidate, ready to train."""

    precision: str
    attention: str
    resident: ResidentModel
    seconds: float | None
    """Per step, or None where there was nothing to choose."""


def fastest(
    load: Callable[[torch.dtype, str], ResidentModel], task: Task, options: TrainingConfig, examples: Examples
) -> Choice:
    """Load the model in the fastest of the allowed forms.

    Times forward and backward passes of a step's first part, of typical length; rank and optimiser are left out, since
    they are the same for all candidates. bfloat16 is tried first: where it is native it wins, and a float32 candidate
    is given up after one step. On a GPU that has bfloat16 nothing else is tried: one client's steps may be too small to
    show what a pass of many gains by it.

    Args:
        load: ``(dtype, attention)`` -> a model with LoRA in place.
        task: what is learned.
        options: ``precision`` and ``attention``; what is not ``auto`` is taken as it is.
        examples: what will be trained on.
    """
    precisions = ["bfloat16", "float32"] if options.precision == "auto" else [options.precision]
    if options.precision == "auto" and torch.cuda.is_available() and torch.cuda.is_bf16_supported():
        precisions = ["bfloat16"]
    attentions = ["sdpa", "eager"] if options.attention == "auto" else [options.attention]
    if len(precisions) == len(attentions) == 1:
        return Choice(precisions[0], attentions[0], load(DTYPES[precisions[0]], attentions[0]), None)
    best: Choice | None = None
    for precision in precisions:
        resident = load(DTYPES[precision], attentions[-1])  # every architecture has eager attention, not all have sdpa
        for attention in attentions:
            if not resident.set_attention(attention):
                continue
            seconds = _step_seconds(resident, task, options, examples, best.seconds if best else None)
            log.info("%s with %s attention: %.1f ms a step", precision, attention, 1000 * seconds)
            if best is None or best.seconds is None or seconds < best.seconds:
                best = Choice(precision, attention, resident, seconds)
    if best is None:
        raise ModelError(f"the model has no {' nor '.join(attentions)} attention; set training.attention")
    best.resident.set_attention(best.attention)
    return best


def _step_seconds(
    resident: ResidentModel, task: Task, options: TrainingConfig, examples: Examples, to_beat: float | None
) -> float:
    by_length = np.argsort(examples.lengths, kind="stable")
    middle = max(len(by_length) // 2 - options.batch_size // 2, 0)
    step = by_length[middle : middle + options.batch_size]
    chosen = parts(step, examples.lengths, limit(options, resident.device))[0]
    batch = task.collate([(examples, chosen)], resident.device)
    times: list[float] = []
    with in_training(resident, options), seeded(0, resident.device):
        for i in range(TIMED_STEPS + 1):
            start = time.perf_counter()
            with resident.computing():
                loss = task.losses(resident.model, batch).sum() / task.units(examples, chosen)
            torch.autograd.backward(loss)
            if resident.device.type == "cuda":
                torch.cuda.synchronize(resident.device)
            times.append(time.perf_counter() - start)
            if i == 0 and to_beat is not None and times[0] > max(HOPELESS * to_beat, 0.1):
                break
    for parameter in resident.trainable():
        parameter.grad = None
    return min(times)
