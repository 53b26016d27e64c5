"""A conversation as one text: what its rows are written as between a file and a task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

ASSISTANT = "assistant"
"""The role whose turns are learned."""
ROLES = ("system", "user", ASSISTANT)
"""Roles as OpenAI names them."""


class Turn(NamedTuple):
    """Who says what."""

    role: str
    content: str


def dumps(turns: Sequence[Turn]) -> str:
    """Turns as one text.

    >>> dumps([Turn("user", "Hi"), Turn("assistant", "Hello")])
    '[["user", "Hi"], ["assistant", "Hello"]]'
    """
    return json.dumps([list(turn) for turn in turns], ensure_ascii=False)


def loads(text: str) -> tuple[Turn, ...]:
    """What `dumps` wrote."""
    return tuple(Turn(role, content) for role, content in json.loads(text))
