"""``polyrank data``: what a task makes of a configuration's data, before anything is trained on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polyrank.cli.console import out, print_json, table
from polyrank.cli.options import Json, Overrides

if TYPE_CHECKING:
    from rich.text import Text

    from polyrank.federation.overview import Overview

CLIENTS, LABELS, CHARACTERS = 5, 12, 900
"""How much is shown of clients that lost rows, of labels, and of a piece of text that is not learned."""
PERCENTILES = {"shortest": 0, "median": 50, "90 %": 90, "99 %": 99, "longest": 100}


def data(
    config: Annotated[Path | None, typer.Argument(help="TOML file; without it the quickstart.")] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Show what the task makes of the data: format, examples, lengths, what is cut or left out; no model is loaded."""
    from polyrank import config as configuration
    from polyrank.federation.overview import overview

    found = overview(configuration.load(config, overrides or []))
    described = describe(found)
    if as_json:
        print_json(described)
    else:
        _print(found, described)


def describe(found: Overview) -> dict[str, Any]:  # Any: plain JSON values
    """All of it as plain values."""
    import numpy as np

    from polyrank.federation.overview import kinds, lengths, sample

    read, sets = found.read, {}
    for name, dataset in read.sets.items():
        encoded = read.encoded[name]
        shown = sample(read, name)
        sets[name] = {
            "source": dataset.where,
            "format": dataset.form,
            "columns": list(dataset.read),
            "rows": len(dataset),
            "examples": len(encoded.examples),
            "cut": len(encoded.cut),
            "left_out": {reason: len(rows) for reason, rows in encoded.left_out.items()},
            "noted": {what: len(rows) for what, rows in encoded.noted.items()},
            **{
                what.replace(" ", "_"): {title: int(np.percentile(values, at)) for title, at in PERCENTILES.items()}
                for what, values in lengths(read, name).items()
            },
            "labels": kinds(dataset),
            "example": {
                "row": shown.row,
                "label": shown.label,
                "tokens": shown.tokens,
                "pieces": [{"text": piece.text, "trained": piece.trained} for piece in shown.pieces],
            },
        }
    lost = found.left_out
    return {
        "task": found.config.task.name,
        "model": found.config.model.name,
        "max_tokens": found.config.data.max_tokens,
        **{name.replace(" ", "_"): value for name, value in read.task.frame(read.tokenizer).items()},
        "rows_read": dict(found.rows),
        "sets": sets,
        "clients": {
            "number": len(found.examples),
            "examples": _spread(found.examples.values()),
            **({"trained_tokens": _spread(found.units.values())} if read.task.writes else {}),
            "left_out": {client: dict(own) for client, own in lost.items()},
            "nothing_left": sorted(client for client, count in found.examples.items() if count == 0),
        },
    }


def _spread(values: Any) -> dict[str, int]:  # Any: numbers, of a mapping
    import numpy as np

    ordered = np.sort(np.fromiter(values, dtype=np.int64))
    return {"least": int(ordered[0]), "median": int(ordered[len(ordered) // 2]), "most": int(ordered[-1])}


def _print(found: Overview, described: Mapping[str, Any]) -> None:
    frame = [f"{name} {_quoted(value)}" for name, value in found.read.task.frame(found.read.tokenizer).items()]
    learned = found.read.task.writes
    about = "; ".join([f"task {described['task']}", f"tokenizer of {described['model']}", *frame])
    _say(f"{about}; at most {described['max_tokens']} tokens")
    for name, one in described["sets"].items():
        columns = " + ".join(one["columns"])
        form = f"format {one['format']}, " if learned else ""
        _say(f"\n{name}: {one['rows']} rows of {one['source']}; {form}columns: {columns}")
        _say(f"  {one['examples']} examples, {one['cut']} of them cut" + ("" if one["left_out"] else ", none left out"))
        for reason, rows in one["left_out"].items():
            _say(f"  {rows} rows left out: {reason}")
        for what, rows in one["noted"].items():
            _say(f"  {rows} rows: {what}")
        if one["labels"]:
            what = "kinds" if learned else "labels"
            _say(f"  {what}: {_some([f'{label} {count}' for label, count in one['labels'].items()], LABELS)}")
    made = table("\nlengths", "", *PERCENTILES)
    for name, one in described["sets"].items():
        for what in ("tokens", "trained_tokens"):
            if what in one:
                made.add_row(f"{name}: {what.replace('_', ' ')}", *(str(value) for value in one[what].values()))
    out.print(made)
    _print_clients(described["clients"])
    for name, one in described["sets"].items():
        example, whose = one["example"], found.read.sets[name]
        label = f", {example['label']}" if example["label"] is not None else ""
        marked = f"; between {_MARKS[0]} and {_MARKS[1]} is what is learned" if learned else ""
        _say(
            f"\nan example of {name}: row {example['row']} of {whose.where}{label}, {example['tokens']} tokens{marked}"
        )
        out.print(_marked(example["pieces"]), soft_wrap=True)


def _print_clients(clients: Mapping[str, Any]) -> None:
    made = table(f"\n{clients['number']} clients", "of each", "least", "median", "most")
    for what in ("examples", "trained_tokens"):
        if what in clients:
            made.add_row(what.replace("_", " "), *(f"{value:,}" for value in clients[what].values()))
    out.print(made)
    if lost := clients["left_out"]:
        each = [f"{client} {sum(own.values())}" for client, own in sorted(lost.items())]
        total = sum(sum(own.values()) for own in lost.values())
        _say(f"rows left out: {total} in all, of {len(lost)} clients: {_some(each, CLIENTS)}")
    if empty := clients["nothing_left"]:
        _say(f"nothing is left of {len(empty)} clients, so that a run is refused: {_some(empty, CLIENTS)}")


_MARKS = ("⟦", "⟧")


def _marked(pieces: Sequence[Mapping[str, Any]]) -> Text:
    """An example's text with what is learned between marks, and in colour where there is some."""
    from rich.text import Text

    from polyrank.core.text import lines

    made = Text()
    for piece in pieces:
        text = lines(piece["text"])
        if piece["trained"]:
            made.append(f"{_MARKS[0]}{text}{_MARKS[1]}", style="green")
        else:
            half = CHARACTERS // 2
            gap = f"\n[... {len(text) - 2 * half} more characters ...]\n"
            made.append(text if len(text) <= CHARACTERS else f"{text[:half]}{gap}{text[-half:]}", style="dim")
    return made


def _quoted(value: str) -> str:
    return repr(value) if any(not letter.isalnum() for letter in value) else value


def _some(names: Sequence[str], most: int) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _say(text: str) -> None:
    out.print(text, markup=False, soft_wrap=True)
