"""What a model answers: as many tokens as there is room for, and whether an answer was cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polyrank.core.errors import DataError
from polyrank.core.seeds import numpy_generator
from polyrank.data.sampling import stratified
from polyrank.hf.generate import Sampling, write
from polyrank.hf.resident import ResidentModel
from polyrank.tasks import Task
from polyrank.tasks.task import Examples


def drawn(examples: Examples, count: int, seed: int) -> np.ndarray:
    """Indices, ascending, of so many examples that are to be answered, of every kind where there are kinds."""
    kinds = np.zeros(len(examples), dtype=np.int64) if examples.kinds is None else examples.kinds
    return stratified(kinds, count, numpy_generator(seed, "samples"))


def in_words(task: Task, tokenizer: Any, examples: Examples, index: int) -> tuple[str, str]:  # Any: of transformers
    """What is asked in an example, and the right answer, without special tokens."""
    opening, answer = (tokenizer.decode(ids, skip_special_tokens=True) for ids in task.asked(examples, index))
    return opening, answer


@dataclass(frozen=True)
class Answer:
    """What was written.

    Args:
        text: without special tokens.
        tokens: how many were written, the end not counted.
        cut: whether the limit ended it.
    """

    text: str
    tokens: int
    cut: bool


def answers(
    resident: ResidentModel,
    task: Task,
    openings: Sequence[Sequence[int]],
    most: int,
    sampling: Sampling | None = None,
) -> list[Answer]:
    """What whatever is installed answers, each as if it were asked alone.

    Args:
        resident: a model that writes, with an adapter.
        task: that it was trained for.
        openings: tokens that are to be answered.
        most: tokens of an answer; fewer where the model has no place for so many after an opening.
        sampling: how tokens are drawn; None for the likeliest each time.

    Raises:
        DataError: an opening leaves no place for an answer; which one is said.
    """
    tokenizer = resident.base.tokenizer
    longest = int(tokenizer.model_max_length)
    room = [min(most, longest - len(opening)) for opening in openings]
    if full := [i for i, own in enumerate(room) if own < 1]:
        raise DataError(
            f"prompt {full[0] + 1} has {len(openings[full[0]])} tokens with what is written around it, and the model "
            f"takes {longest}, its answer included: shorten it"
        )
    empty = [i for i, opening in enumerate(openings) if not len(opening)]
    if empty:
        raise DataError(f"prompt {empty[0] + 1} has no token, and a model needs one to go on from; write something")
    stops = task.stops(tokenizer, resident.model)
    resident.model.eval()
    found: dict[int, list[int]] = {}
    for size in sorted(set(room), reverse=True):  # those with less room apart: no row may outgrow the model's positions
        chosen = [i for i, own in enumerate(room) if own == size]
        with resident.computing():
            written = write(
                resident.model,
                [openings[i] for i in chosen],
                stops=stops,
                pad=tokenizer.pad_token_id,
                most=size,
                sampling=sampling,
            )
        found |= dict(zip(chosen, written, strict=True))
    return [
        Answer(tokenizer.decode(found[i], skip_special_tokens=True), len(found[i]), cut=len(found[i]) >= room[i])
        for i in range(len(openings))
    ]
