"""A row as tokens of which some are trained: where answers stand, how they end, and what is cut.

Which tokens are trained is known by their places and never by their numbers: padding may well be the end token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from polyrank.core.errors import DataError
from polyrank.data.turns import ASSISTANT, Turn
from polyrank.tasks.causal_lm.prompts import Prompts


@dataclass(frozen=True, eq=False)
class Row:
    """A row as tokens.

    Args:
        ids: int64, ``(tokens,)``.
        trained: bool, ``(tokens,)``: which of them are learned; never the first, which nothing comes before.
        cut: whether something of it was left out.
    """

    ids: np.ndarray
    trained: np.ndarray
    cut: bool = False

    def __len__(self) -> int:
        return len(self.ids)


def whole_text(prompts: Prompts, text: str, limit: int) -> Row | None:
    """A text, all of which is trained, with its end token; None where it has more tokens than the limit."""
    ids = prompts.begun(text)
    row = _row([*ids, prompts.stop] if ids[-1:] != [prompts.stop] else ids, [(1, len(ids) + 1)])
    return row if len(row) <= limit else None


def answered(prompts: Prompts, turns: Sequence[Turn], limit: int) -> Row | None:
    """A conversation whose answers are trained, in at most so many tokens; None where its last answer is too long.

    Of one that is longer whole exchanges are left out, the oldest first; then the left of the last question is cut, and
    at last the left of the system turn. The template around them stays whole.

    Raises:
        DataError: the chat template cannot be used for it.
    """
    row = written(prompts, turns)
    if len(row) <= limit:
        return row
    system = [turn for turn in turns if turn.role == "system"]
    spoken = turns[len(system) :]
    while len(spoken) > 2 and len(row) > limit:
        spoken = spoken[2:]
        row = written(prompts, [*system, *spoken])
    kept = [*system, *spoken]
    for at in (len(kept) - 2, *range(len(system))):
        while len(row) > limit and kept[at].content:
            kept[at] = Turn(kept[at].role, _right_of(prompts, kept[at].content, len(row) - limit))
            row = written(prompts, kept)
    return replace(row, cut=True) if len(row) <= limit else None


def _right_of(prompts: Prompts, text: str, tokens: int) -> str:
    """A text without so many tokens of its left, and without what remains of a character that was cut."""
    kept = prompts.ids(text)[tokens:]
    right: str = prompts.tokenizer.decode(kept, clean_up_tokenization_spaces=False) if kept else ""
    right = right.lstrip("\ufffd")
    return right if len(right) < len(text) else text[1:]


def written(prompts: Prompts, turns: Sequence[Turn]) -> Row:
    """A conversation as tokens, whatever its length.

    Raises:
        DataError: the chat template cannot be used for it.
    """
    return _chat(prompts, turns) if prompts.chat else _plain(prompts, turns)


def _plain(prompts: Prompts, turns: Sequence[Turn]) -> Row:
    """Prompt and completion as they stand, or the prompt in its place in a text; then the end token."""
    if sum(turn.role == ASSISTANT for turn in turns) > 1:
        raise DataError(
            "it has several answers, and only a chat template says how turns are written: take a model whose tokenizer "
            "has one, as instruct models have, and data.template = 'chat'"
        )
    opening, answer = prompts.opening(turns[:-1]), prompts.ids(turns[-1].content)
    if answer[-1:] != [prompts.stop]:
        answer = [*answer, prompts.stop]
    return _row([*opening, *answer], [(len(opening), len(opening) + len(answer))])


def _chat(prompts: Prompts, turns: Sequence[Turn]) -> Row:
    """By prefix difference: an answer is what the template adds to the conversation before it.

    Answers before the last one are trained where the template writes them the same when the conversation goes on.
    """
    text, before = prompts.rendered(turns), prompts.rendered(turns[:-1], ask=True)
    if not text.startswith(before):
        raise DataError(
            "the chat template writes a prompt otherwise once its answer follows, so it cannot be told where the "
            "answer begins: give data.template a text with {prompt}, or take another model"
        )
    opening, ids = prompts.ids(before), prompts.ids(text)
    if ids[: len(opening)] != opening:  # a token across the boundary, without which the model will be asked
        ids = [*opening, *prompts.ids(text[len(before) :])]
    over = prompts.over(ids[len(opening) :])
    ids = [*_stripped(prompts, ids), prompts.end] if over is None else ids[: len(opening) + over + 1]
    spans = [(len(opening), len(ids))]
    for i in (i for i, turn in enumerate(turns[:-1]) if turn.role == ASSISTANT):
        asked, told = prompts.rendered(turns[:i], ask=True), prompts.rendered(turns[: i + 1])
        if not (text.startswith(told) and told.startswith(asked)):
            continue  # written anew: only the last answer stands as the model will be asked for it
        start, stop = prompts.ids(asked), prompts.ids(told)
        if ids[: len(start)] == start and ids[: len(stop)] == stop:
            over = prompts.over(stop[len(start) :])
            spans.append((len(start), len(stop) if over is None else len(start) + over + 1))
    return _row(ids, spans)


def _stripped(prompts: Prompts, ids: Sequence[int]) -> list[int]:
    """Tokens without the spaces at their end, which a template wrote after an answer."""
    kept = list(ids)
    while kept and not prompts.tokenizer.decode(kept[-1:]).strip():
        kept.pop()
    return kept


def _row(ids: Sequence[int], spans: Sequence[tuple[int, int]]) -> Row:
    trained = np.zeros(len(ids), dtype=bool)
    for start, stop in spans:
        trained[max(start, 1) : stop] = True
    return Row(np.asarray(ids, dtype=np.int64), trained)
