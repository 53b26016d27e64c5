"""A page for every aggregation method of the registry, so that a new one has its page with its registry line."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from pathlib import Path

from polyrank.aggregation import METHODS, options
from polyrank.cli.methods import facts
from tools.pages import arrival, links

ROOT = Path(__file__).parents[2]
OURS = re.compile(r"\b(ours|our own|our generalisation|not at hand|a reading|the paper's is another)\b", re.IGNORECASE)
"""What a sentence of docs/methods.md says where something is not the paper's."""


def names() -> list[str]:
    """In the registry's order."""
    return list(METHODS)


def pages() -> dict[str, str]:
    """Path in the site -> text."""
    return {f"methods/{name}.md": page(name) for name in names()}


def page(name: str) -> str:
    """All that is known of a method: from the registry, docs/methods.md, docs/choose.md and paper/RESULTS.md."""
    about = paragraph(name)
    parts = [
        f"# `{name}`",
        f"What is averaged: {facts(METHODS[name]())['averages']}.",
        f"## Idea and formula\n\n{about}",
        "Symbols, and what holds for all methods: [all of them](../methods.md).",
        f"## Who fills what\n\n{arrival.picture(name)}",
        f"## Exact or not, and what travels\n\n{_facts(name)}",
        f"## Options\n\n{_options(name)}",
        f"## When to use it\n\n{when(name)}",
        f"## Measured\n\n{measured(name)}",
        f"## Source\n\n{_source(name, about)}",
    ]
    return "\n\n".join(parts) + "\n"


def paragraph(name: str) -> str:
    """What docs/methods.md says of a method, formula included; "" where it says nothing."""
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    found = re.search(rf"^- (\*\*{re.escape(name)}\*\*.*?)(?=^- |^\S|\Z)", text, flags=re.DOTALL | re.MULTILINE)
    if not found:
        return ""
    first, _, rest = found[1].partition("\n")
    return _here(f"{first}\n{textwrap.dedent(rest)}".strip(), "docs/methods.md")


def _here(text: str, origin: str) -> str:
    """A text of another page, for a method's page."""
    return links.moved(text, origin, "docs/methods/method.md")


def _facts(name: str) -> str:
    fact = facts(METHODS[name]())
    base = {
        "no": "none",
        "sent": "sent down to the clients",
        "kept": "kept on the server",
        "rest": "the rank indices that a client does not train, sent down frozen",
    }[fact["base_change"]]
    turns = " (in odd rounds)" if fact["alternates"] else ""
    rows = [
        ("exact: the change of the global model is the weighted mean of the clients' products", fact["exact"]),
        ("ranks of the clients", "equal" if fact["equal_ranks"] else "any"),
        ("a client sends" + turns, ", ".join(fact["sends"])),
        ("a client is sent", ", ".join(fact["receives"])),
        ("stays with the client", ", ".join(fact["keeps"]) or "nothing"),
        ("change of the base", base),
        ("computed from sums alone, so that a [secure sum](../secure.md) can", "yes" if fact["fixed_sums"] else "no"),
        ("merges adapters once ([merging](../merging.md))", "yes" if fact["merges"] else "no"),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows)])


def _options(name: str) -> str:
    known = options(name)
    if not known:
        return "None."
    defaults = {field.name: field.default for field in dataclasses.fields(METHODS[name])}  # type: ignore[arg-type]
    rows = ["| option | type | default |", "|---|---|---|"]
    for option, kind in known.items():
        default = defaults.get(option, "none")
        shown = "-" if default is None else f"`{default}`"
        rows.append(f"| `{option}` | `{kind.replace('|', 'or')}` | {shown} |")
    own = METHODS[name]
    return "\n".join(rows) + f"\n\n::: {own.__module__}.{own.__qualname__}\n    options: {{members: false}}"


def when(name: str) -> str:
    """The line of docs/choose.md, or that there is none."""
    text = (ROOT / "docs" / "choose.md").read_text(encoding="utf-8")
    found = re.search(rf"^\| `{re.escape(name)}` \| (.*?) \| (.*?) \|$", text, flags=re.MULTILINE)
    if not found:
        return "No advice yet: nothing was measured from which to give one ([how to choose](../choose.md))."
    take, leave = (_here(cell, "docs/choose.md") for cell in found.groups())
    return f"Take it when: {take}\n\nRather not when: {leave}\n\n[How to choose](../choose.md)"


def measured(name: str) -> str:
    """The method's rows in the tables of paper/RESULTS.md, under the names of their studies, beside replication's."""
    text = (ROOT / "paper" / "RESULTS.md").read_text(encoding="utf-8")
    parts, study, seen = [], "", 0
    for table in re.split(r"(?=^<!-- begin )", text, flags=re.MULTILINE)[1:]:
        study = table.partition("paper_")[2].partition(" ")[0]
        for block in re.finditer(r"(?:\*\*([\w-]+)\*\*\n\n)?^(\| method \|.*(?:\n\|.*)+)", table, flags=re.MULTILINE):
            head, rule, *rows = block[2].splitlines()
            kept = [row for row in rows if _is_of(row, name) or (name != "replication" and _is_of(row, "replication"))]
            if any(_is_of(row, name) for row in kept):
                seen += 1
                parts.append("\n".join([f"**{study}{', ' + block[1] if block[1] else ''}**", "", head, rule, *kept]))
    if not parts:
        return "Not measured yet in the studies of [the results](../results/RESULTS.md)."
    parts = [_here(part, "paper/RESULTS.md") for part in parts]
    return "\n\n".join([*parts, f"{seen} of the tables in [the results](../results/RESULTS.md), which say how."])


def _is_of(row: str, name: str) -> bool:
    """Whether a table's row is of this method, under whatever options."""
    return re.match(rf"\| {re.escape(name)}(,| |$)", row) is not None


def _source(name: str, about: str) -> str:
    paper = METHODS[name].info.paper
    first = f"[{paper.removeprefix('https://')}]({paper})" if "://" in paper else paper
    first = first or "A method of our own; there is no paper."
    flat = " ".join(re.sub(r"^ {4,}.*$", "", about, flags=re.MULTILINE).split())
    ours = [sentence for sentence in re.split(r"(?<=\.)\s(?=[A-Z`])", flat) if OURS.search(sentence)]
    if not paper:
        return first
    reading = " ".join(ours) or "nothing that docs/methods.md marks as ours; the docstring of the class says the rest."
    return f"{first}\n\nWhat is our reading: {reading}"
