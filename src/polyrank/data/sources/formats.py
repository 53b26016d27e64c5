"""What a model that writes learns of a row: a text, the completion of a prompt, or the assistant's turns."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

from polyrank.core.errors import DataError
from polyrank.data.sources.tables import Table, listed, refuse, whole
from polyrank.data.turns import ASSISTANT, Turn, dumps

log = logging.getLogger(__name__)

Format = Literal["text", "prompt", "messages", "conversations"]

PROMPTS, BESIDE = ("prompt", "instruction", "question", "query"), ("context", "input")
COMPLETIONS = ("completion", "response", "output", "answer")
"""Columns that are known without being named, the first ones first."""
_ROLES = {
    **{"system": "system", "developer": "system"},
    **{"user": "user", "human": "user"},
    **{"assistant": ASSISTANT, "gpt": ASSISTANT, "model": ASSISTANT, "chatgpt": ASSISTANT},
}
"""Roles of OpenAI's and ShareGPT's files, and what they are called here."""


@dataclass(frozen=True)
class Writing:
    """Which columns are read, as far as the user named them; see ``[data]``.

    Args:
        format: None for what the columns say.
        text: of whole texts.
        prompt: of prompts, several joined by an empty line.
        completion: of completions.
        messages: of turns.
    """

    format: Format | None = None
    text: str | Sequence[str] = "text"
    prompt: str | Sequence[str] | None = None
    completion: str | None = None
    messages: str | None = None

    def prompts(self, columns: Collection[str]) -> tuple[str, ...]:
        """The columns that make up a prompt; none where there is no such column."""
        if self.prompt is not None:
            return listed(self.prompt)
        first = next((name for name in PROMPTS if name in columns), None)
        beside = next((name for name in BESIDE if name in columns), None)
        return tuple(name for name in (first, beside) if name)

    def completions(self, columns: Collection[str]) -> str | None:
        """The column of completions; None where there is no such column."""
        return self.completion or next((name for name in COMPLETIONS if name in columns), None)

    def found(self, columns: Collection[str]) -> Format | None:
        """The format that was asked for, or the one that the columns are of; None where they are of none.

        >>> Writing().found(["instruction", "context", "response", "category"])
        'prompt'
        >>> Writing().found(["conversations", "id"]), Writing().found(["text", "label"]), Writing().found(["label"])
        ('conversations', 'text', None)
        """
        return next(iter(self.possible(columns)), None)

    def possible(self, columns: Collection[str]) -> tuple[Format, ...]:
        """What the columns could be read as, the first one first; only what was asked for, where something was.

        >>> Writing().possible(["instruction", "output", "text"])
        ('prompt', 'text')
        """
        if self.format is not None:
            return (self.format,)
        if self.messages is not None:
            return ("messages",)
        if self.prompt is not None or self.completion is not None:
            return ("prompt",)
        found: dict[Format, bool] = {
            "messages": "messages" in columns,
            "conversations": "conversations" in columns,
            "prompt": bool(self.prompts(columns) and self.completions(columns)),
            "text": set(listed(self.text)) <= set(columns),
        }
        return tuple(form for form, there in found.items() if there)


class Written(NamedTuple):
    """Rows as texts.

    Args:
        texts: whole texts as they stand, or conversations as `polyrank.data.turns` writes them.
        turns: whether they are conversations.
        form: of the rows.
        read: the columns that they are of.
    """

    texts: tuple[str, ...]
    turns: bool
    form: Format
    read: tuple[str, ...]


def written(table: Table, how: Writing) -> Written:
    """What is learned of a table's rows.

    Raises:
        DataError: the columns are of no format, or one is missing; a prompt or an answer is empty or no string; turns
            cannot be read, or the last one is not the assistant's. Rows are named.
    """
    forms = how.possible(table.columns)
    if not forms:
        found = ", ".join(repr(column[:40]) for column in table.columns)
        raise DataError(
            f"{table.where} has no columns that a model could learn to write from; columns found: {found} (expected "
            "text, prompt and completion, messages or conversations: name them with data.prompt and data.completion, "
            "data.messages or data.text)"
        )
    form, *others = forms
    if others:
        log.warning(
            "%s has columns of several formats and is read as %s, not as %s; data.format says which one is meant",
            table.where,
            form,
            " or ".join(others),
        )
    if form == "text":
        return Written(_joined(table, how.text, "data.text", "text", " "), False, form, listed(how.text))
    if form == "prompt":
        prompts, completion = how.prompts(table.columns) or ("prompt",), how.completions(table.columns) or "completion"
        return Written(_pairs(table, prompts, completion), True, form, (*prompts, completion))
    name = how.messages or form
    return Written(_conversations(table, name), True, form, (name,))


def _pairs(table: Table, names: Sequence[str], completion: str) -> tuple[str, ...]:
    if completion in names:
        raise DataError(
            f"{table.where}: the column {completion!r} is both prompt and completion, so an answer would stand in its "
            "own question; name another one with data.prompt or data.completion"
        )
    prompts = _joined(table, names, "data.prompt", "prompt", "\n\n")
    answers = _joined(table, completion, "data.completion", "answer", "")
    pairs = zip(prompts, answers, strict=True)
    return tuple(dumps([Turn("user", prompt), Turn(ASSISTANT, answer)]) for prompt, answer in pairs)


def _joined(table: Table, names: str | Sequence[str], setting: str, what: str, between: str) -> tuple[str, ...]:
    """Strings of one or more columns, joined; none may be empty."""
    parts = [table.column(name, setting) for name in listed(names)]
    shown = " + ".join(map(repr, listed(names)))
    if not parts or not parts[0]:
        raise DataError(f"{table.where} has columns but no rows; expected at least one example")
    for part in parts:
        wrong = [i for i, value in enumerate(part) if not (value is None or isinstance(value, str))]
        kind = type(part[wrong[0]]).__name__ if wrong else ""
        found = f"{_with_article(what)} in {shown} that is {_with_article(kind)}, not a string"
        refuse(wrong, table.where, found, f"write these as strings, or name another column with {setting}")
    joined = [
        between.join(value for value in row if isinstance(value, str) and value.strip())
        for row in zip(*parts, strict=True)
    ]
    empty = [i for i, value in enumerate(joined) if not value]
    refuse(empty, table.where, f"an empty {what} in {shown}", "fill these rows or remove them")
    return whole(table.where, f"{_with_article(what)} in {shown}", joined)


def _with_article(word: str) -> str:
    return f"{'an' if word[:1] in tuple('aeiou') else 'a'} {word}"


def _conversations(table: Table, name: str) -> tuple[str, ...]:
    rows = table.column(name, "data.messages")
    if not rows:
        raise DataError(f"{table.where} has columns but no rows; expected at least one example")
    found: list[str] = []
    problems: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        try:
            found.append(dumps(_turns(row)))
        except _UnreadableError as error:
            problems.setdefault(str(error), []).append(i)
    for problem, at in problems.items():
        refuse(at, table.where, f"a conversation in {name!r} {problem}", "mend these rows or remove them")
    return whole(table.where, f"a conversation in {name!r}", found)


class _UnreadableError(Exception):
    """What is wrong with a conversation, to follow on "a conversation"."""


def _turns(row: object) -> list[Turn]:
    if isinstance(row, str):  # a column of csv
        try:
            row = json.loads(row)
        except ValueError:
            raise _UnreadableError("that is a string and no JSON list of turns") from None
    if not isinstance(row, Sequence) or isinstance(row, str) or not row:
        raise _UnreadableError("that is no list of turns, or an empty one")
    turns = [_turn(one) for one in row]
    if turns[-1].role != ASSISTANT:
        raise _UnreadableError(f"whose last turn is the {turns[-1].role}'s, so that there is no answer to learn")
    if any(turn.role == "system" for turn in turns[1:]):
        raise _UnreadableError("with a system turn that is not the first")
    spoken = [turn.role for turn in turns if turn.role != "system"]
    if spoken[0] != "user" or any(a == b for a, b in pairwise(spoken)):
        raise _UnreadableError("in which user and assistant do not take turns, the user first")
    return turns


def _turn(one: object) -> Turn:
    """OpenAI's ``role`` and ``content``, or ShareGPT's ``from`` and ``value``."""
    if not isinstance(one, Mapping):
        raise _UnreadableError("with a turn that is no object")
    role, content = (one.get("role"), one.get("content")) if "role" in one else (one.get("from"), one.get("value"))
    known = _ROLES.get(role) if isinstance(role, str) else None
    if known is None:
        raise _UnreadableError(f"with a turn whose role is {role!r:.40}, expected one of {', '.join(_ROLES)}")
    if one.get("tool_calls") or one.get("function_call"):
        raise _UnreadableError("with a call of a tool, which is not learned")
    text = _content(content)
    if not text.strip():
        raise _UnreadableError("with an empty answer" if known == ASSISTANT else f"with an empty {known} turn")
    return Turn(known, text)


def _content(content: object) -> str:
    """A turn's text; OpenAI's parts of text are put one after another."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        texts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        kinds = {part.get("type", "text") for part in content if isinstance(part, Mapping)}
        if kinds <= {"text"} and all(isinstance(text, str) for text in texts):
            return "".join(map(str, texts))
    raise _UnreadableError("with a turn whose content is not text")
