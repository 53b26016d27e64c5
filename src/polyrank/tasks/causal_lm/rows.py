"""A row as tokens of which some are trained: where answers stand, how they end, and what is cut.

Which tokens are trained is known by their places and never by their numbers: padding may well be the end token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

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
        asked: how much of the last question's text is left, 0 to 1.
        spelled: a token of the chat template that its text says in so many letters; None where none is.
    """

    ids: np.ndarray
    trained: np.ndarray
    cut: bool = False
    asked: float = 1.0
    spelled: str | None = None

    def __len__(self) -> int:
        return len(self.ids)


def whole_text(prompts: Prompts, text: str, limit: int) -> Row | None:
    """A text, all of which is trained, with its end token; None where it has more tokens than the limit."""
    ids = prompts.begun(text)
    row = _row([*ids, prompts.end] if ids[-1:] != [prompts.end] else ids, [(1, len(ids) + 1)])
    return row if len(row) <= limit else None


def answered(prompts: Prompts, turns: Sequence[Turn], limit: int) -> Row | None:
    """A conversation whose answers are trained, in at most so many tokens; None where its last answer is too long.

    Of one that is longer whole exchanges are left out, the oldest first; then the left of the last question is cut,
    then that of the system turn, and only where the answer leaves no room for the template, that of what it writes.

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
        while len(row) > limit and (right := _right_of(prompts, kept[at].content, len(row) - limit)):
            kept[at] = Turn(kept[at].role, right)
            row = written(prompts, kept)
    if len(row) > limit:
        return _without_template(prompts, row, limit)
    asked = len(kept[-2].content) / len(turns[-2].content) if len(turns) > 1 else 1.0
    return replace(row, cut=True, asked=asked)


def _without_template(prompts: Prompts, row: Row, limit: int) -> Row | None:
    """The answer after as much as there is room for of what comes before it; at least a token must."""
    start = int(row.trained.argmax())
    begin = [token for token in row.ids[:1].tolist() if token == prompts.tokenizer.bos_token_id]
    room = limit - (len(row) - start) - len(begin)
    if room + len(begin) < 1:
        return None
    ids = [*begin, *row.ids[start - room : start].tolist(), *row.ids[start:].tolist()]
    return replace(_row(ids, [(len(begin) + room, len(ids))]), cut=True, asked=0.0)


def _right_of(prompts: Prompts, text: str, tokens: int) -> str:
    """A text without so many tokens of its left, and without what remains of a character that was cut.

    Its last token stays: nothing comes before an answer's first token otherwise, and that would not be learned. Nothing
    is returned where there is no more to cut.
    """
    ids = prompts.ids(text)
    right: str = prompts.tokenizer.decode(ids[min(tokens, len(ids) - 1) :], clean_up_tokenization_spaces=False)
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
            "it has several answers, and only a chat template says how turns are written: give it rows of one question "
            "and one answer, or train a model whose tokenizer has one, as instruct models have, with data.template = "
            "'chat'"
        )
    opening, answer = prompts.opening(turns[:-1]), prompts.ids(turns[-1].content)
    if answer[-1:] != [prompts.stop]:
        answer = [*answer, prompts.stop]
    return _row([*opening, *answer], [(len(opening), len(opening) + len(answer))])


def _chat(prompts: Prompts, turns: Sequence[Turn]) -> Row:
    """By prefix difference: an answer is what the template adds to the conversation before it, up to its end token.

    Answers before the last one are trained where the template writes them the same when the conversation goes on.
    """
    text = prompts.rendered(turns)
    spans = []
    for i in (i for i, turn in enumerate(turns) if turn.role == ASSISTANT):
        last = i == len(turns) - 1
        asked, told = prompts.rendered(turns[:i], ask=True), text if last else prompts.rendered(turns[: i + 1])
        if last:
            _check(asked, told, turns[i].content)
        answer = _Answer.of(prompts, asked, told, turns[i].content)
        if answer is not None and text.startswith(told[: answer.end]):
            spans.append(answer)
    ids, places = _encoded(prompts, text, spans)
    if not spans[-1].stops:
        ids, places[-1] = [*ids, prompts.end], (places[-1][0], len(ids) + 1)
    return _row(ids, places)


def _check(asked: str, told: str, content: str) -> None:
    """Refuse a template under which it cannot be told what of the text is the answer.

    Raises:
        DataError: says why.
    """
    if not told.startswith(asked):
        raise DataError(
            "the chat template writes a prompt otherwise once its answer follows, so it cannot be told where the "
            "answer begins: give data.template a text with {prompt}, or take another model"
        )
    if _bare(content) not in told[len(asked) :]:
        raise DataError(
            "the chat template does not write the answer as it stands, so it cannot be learned: give data.template a "
            "text with {prompt}, or take another model"
        )


def _bare(content: str) -> str:
    """What templates leave of an answer: no thoughts, no spaces around it."""
    return content.rpartition("</think>")[2].strip()


@dataclass(frozen=True)
class _Answer:
    """Where in a rendered conversation an answer stands.

    Args:
        start: its first character.
        end: the one after its end token, or after itself where it has none.
        stops: whether it has one.
    """

    start: int
    end: int
    stops: bool

    @classmethod
    def of(cls, prompts: Prompts, asked: str, told: str, content: str) -> _Answer | None:
        """The answer by which ``told`` goes on from ``asked``; None where it does not."""
        bare, start = _bare(content), len(asked)
        at = told.rfind(bare)
        if not told.startswith(asked) or at < start:
            return None
        ids = prompts.ids(told[start:])
        over = prompts.over(ids)
        stop: str = "" if over is None else prompts.tokenizer.convert_ids_to_tokens(ids[over])
        found = told.find(stop, at + len(bare)) if stop else -1
        if found < 0:  # nor is it one where an answer that ends in such a token is all that there is
            return cls(start, len(told.rstrip()), stops=False)
        return cls(start, found + len(stop), stops=True)


def _encoded(prompts: Prompts, text: str, spans: Sequence[_Answer]) -> tuple[list[int], list[tuple[int, int]]]:
    """The text up to the end of the last answer as tokens, and where the answers are among them.

    Where a token would reach across the beginning or the end of an answer, the parts are encoded one by one: without
    that token the model will be asked.
    """
    borders = [place for span in spans for place in (span.start, span.end)]
    ids = prompts.ids(text[: borders[-1]])
    parts = [prompts.ids(text[:border]) for border in borders[:-1]]
    if all(ids[: len(part)] == part for part in parts):
        counts = [*map(len, parts), len(ids)]
    else:
        pieces = [prompts.ids(text[a:b]) for a, b in pairwise([0, *borders])]
        ids = [token for piece in pieces for token in piece]
        counts = [sum(map(len, pieces[: i + 1])) for i in range(len(pieces))]
    return ids, list(zip(counts[::2], counts[1::2], strict=True))


def _row(ids: Sequence[int], spans: Sequence[tuple[int, int]]) -> Row:
    trained = np.zeros(len(ids), dtype=bool)
    for start, stop in spans:
        trained[max(start, 1) : stop] = True
    return Row(np.asarray(ids, dtype=np.int64), trained)
