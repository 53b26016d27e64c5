"""What columns are taken for, by their names and by their values; no value is passed on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from polyrank.data.sources.roles import Seen, look
from polyrank.data.sources.tables import Table

ROWS = 24
TEXTS = [f"the patient number {i} was seen in the morning" for i in range(ROWS)]


def seen(**columns: list[object]) -> Seen:
    return look(Table("test.csv", columns))


def found(of: Seen) -> tuple[str | None, str | None, str | None]:
    """Text, label and client, each of what is left by those before it."""
    text = of.text()
    label = of.label([text.column.name] if text else [])
    taken = [one.column.name for one in (text, label) if one]
    client = of.client(taken)
    return (
        text.column.name if text else None,
        label.column.name if label else None,
        client.name if client else None,
    )


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"text": TEXTS, "label": ["a", "b"] * 12}, ("text", "label", None)),
        ({"notes": TEXTS, "diagnosisCode": [1, 2, 3] * 8, "Hospital ID": list("abcdef") * 4}, (
            "notes", "diagnosisCode", "Hospital ID")),
        ({"a": list("xyz") * 8, "b": TEXTS, "c": ["yes", "no"] * 12}, ("b", "c", None)),
        ({"id": list(range(ROWS)), "b": TEXTS, "site": ["n", "s"] * 12}, ("b", None, "site")),
        ({"b": TEXTS, "label": [f"own {i}" for i in range(ROWS)]}, ("b", None, None)),
        ({"b": TEXTS, "score": [i / 2 for i in range(ROWS)], "gaps": ["x", None] * 12}, ("b", None, None)),
        ({"id": [f"{i}" for i in range(ROWS)], "kind": ["x", "y"] * 12}, (None, "kind", None)),
        ({"b": TEXTS, "user": [f"u{i}" for i in range(ROWS)]}, ("b", None, None)),
        ({"on": ["1/2/26", "2/2/26"] * 12, "b": TEXTS, "site": list("nsw") * 8, "department": ["x", "y"] * 12}, (
            "b", "department", "site")),
        ({"when": ["11.1.2026 10:00", "12.1.2026 9:30"] * 12, "b": TEXTS}, ("b", None, None)),
        ({"title": ["short one"] * ROWS, "story": TEXTS}, ("story", None, None)),
    ],
)  # fmt: skip
def test_columns(columns: dict[str, list[object]], expected: tuple[str | None, ...]):
    """24 rows: a client or an unnamed label has four or more on average, every row has a label; no ids, no days."""
    assert found(seen(**columns)) == expected


def test_what_might_be_clients_is_only_offered():
    of = seen(b=TEXTS, label=["a", "b"] * 12, village=list("abcd") * 6, site=list("abc") * 8)
    assert [one.name for one in of.may_be_clients(["b", "label"])] == ["village", "site"]
    assert of.text().named is False  # type: ignore[union-attr]  # there is one
    assert of.label(["b"]).named is True  # type: ignore[union-attr]  # the same


def test_a_column_that_cannot_be_read_is_named_and_nothing_else():
    class Broken(Mapping[str, list[object]]):
        def __getitem__(self, name: str) -> list[object]:
            if name == "dates":
                raise OverflowError("year 99999 is out of range")
            return list(TEXTS)

        def __contains__(self, name: object) -> bool:
            return name in ("text", "dates")

        def __iter__(self) -> Iterator[str]:
            return iter(["text", "dates"])

        def __len__(self) -> int:
            return 2

    of = look(Table("test.parquet", Broken()))
    assert (of.rows, of.names) == (ROWS, ("text", "dates"))
    assert [one.about for one in of.columns] == ["strings of 9 words, 24 different ones", "not readable"]


def test_no_value_is_in_what_is_said():
    of = seen(b=TEXTS, label=["secret1", "secret2"] * 12, turns=[[{"role": "user"}]] * ROWS)
    assert not any(word in str(of) for word in ("secret", "patient", "role"))
