from __future__ import annotations

import json

import pytest

from polyrank.core.errors import DataError
from polyrank.data.sources.formats import Writing, written
from polyrank.data.sources.tables import Table
from polyrank.data.turns import Turn, loads

ASKED, TOLD = Turn("user", "Hi"), Turn("assistant", "Hello")
OPENAI = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]


def turns(columns: dict[str, list[object]], **how: object) -> list[tuple[Turn, ...]]:
    found = written(Table("x.jsonl", columns), Writing(**how))  # type: ignore[arg-type]
    assert found.turns
    return [loads(text) for text in found.texts]


def test_formats_are_known_by_their_columns():
    assert turns({"messages": [OPENAI]}) == turns({"conversations": [SHAREGPT]}) == [(ASKED, TOLD)]
    assert turns({"messages": [json.dumps(OPENAI)]}) == [(ASKED, TOLD)]
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, OPENAI[1]]
    assert turns({"messages": [parts]}) == [(ASKED, TOLD)]
    for prompt, completion in (("prompt", "completion"), ("instruction", "response"), ("question", "answer")):
        assert turns({prompt: ["Hi"], completion: ["Hello"]}) == [(ASKED, TOLD)]
    assert turns({"a": ["Hi"], "b": ["Hello"]}, prompt="a", completion="b") == [(ASKED, TOLD)]
    (row, other) = turns({"instruction": ["Say", "Hi"], "context": ["this.", None], "response": ["Hello", "Hello"]})
    assert (row[0].content, other[0].content) == ("Say\n\nthis.", "Hi")
    found = written(Table("x.jsonl", {"text": ["A text."]}), Writing())
    assert (found.texts, found.turns) == (("A text.",), False)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"messages": [OPENAI[:1]]}, "whose last turn is the user's"),
        ({"messages": [[*OPENAI, *OPENAI], []]}, "row 2"),
        ({"messages": [[OPENAI[1]]]}, "do not take turns"),
        ({"messages": [[{"role": "tool", "content": "x"}, OPENAI[1]]]}, "role is 'tool'"),
        ({"messages": [[OPENAI[0], {"role": "assistant", "content": " "}]]}, "an empty answer"),
        ({"messages": [[OPENAI[0], {**OPENAI[1], "tool_calls": [1]}]]}, "a call of a tool"),
        ({"prompt": ["a", "b"], "completion": ["c", ""]}, r"an empty answer in 'completion', at row 2"),
        ({"other": ["a"]}, "no columns that a model could learn to write from"),
    ],
)
def test_what_cannot_be_learned_is_named(columns: dict[str, list[object]], said: str):
    with pytest.raises(DataError, match=said):
        written(Table("x.jsonl", columns), Writing())


def test_a_column_is_not_question_and_answer_at_once():
    with pytest.raises(DataError, match="'completion' is both prompt and completion"):
        written(Table("x.jsonl", {"prompt": ["a"], "completion": ["b"]}), Writing(prompt="completion"))


def test_several_formats_are_said(caplog: pytest.LogCaptureFixture):
    """The first of them is read, unless another one is named; a format or a column that is named is the only one."""
    table = Table("x.jsonl", {"instruction": ["Hi"], "output": ["Hello"], "text": ["Hi Hello"], "messages": [OPENAI]})
    assert written(table, Writing()).form == "messages"
    assert [record.getMessage() for record in caplog.records] == [
        "x.jsonl has columns of several formats and is read as messages, not as prompt or text; data.format says which "
        "one is meant"
    ]
    caplog.clear()
    assert written(table, Writing("text")).form == "text"
    assert written(table, Writing(completion="output")).form == "prompt"
    assert not caplog.records
