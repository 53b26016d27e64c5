"""Write the parts of the documentation that the code knows: ``python docs/generate.py``.

Replaces what stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->`` in the pages below, and writes the
configuration's JSON schema. A test checks that all of it is up to date.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomlkit

from polyrank.aggregation import METHODS
from polyrank.cli.methods import facts
from polyrank.config import Config, Section, schema
from polyrank.hf.peft import fields as adapter_fields

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # benchmarks and paper are no part of the package

from benchmarks.engines.__main__ import PARTS  # noqa: E402
from benchmarks.fuzz import __main__ as fuzz  # noqa: E402
from paper.studies import TABLES  # noqa: E402
from tools.pages import dilution, keys, public  # noqa: E402

from benchmarks import (  # noqa: E402
    attacks,
    choices,
    cluster,
    flower,
    neighbour,
    privacy,
    secure,
    tree,
    versus_flower,
    writers,
)
from paper import advice, cost, diagnostic, tables  # noqa: E402
from tools import release  # noqa: E402

PAGES = (
    *("README.md", "docs/methods.md", "docs/configuration.md", "docs/speed.md", "docs/scale.md", "docs/flower.md"),
    *("docs/merging.md", "docs/secure.md", "docs/trust.md", "docs/writing.md", "docs/why.md", "paper/RESULTS.md"),
    "paper/FINDINGS.md",
    "docs/releases.md",
)
PICTURES = {"docs/images/why.svg": dilution.svg}


def methods_table() -> str:
    """One row per aggregation method, from the registry."""
    head = "| method | what is averaged | exact | ranks | up | down | base change | secure sum | options | source |"
    rows = [head, "|" + "---|" * 10]
    for cls in METHODS.values():
        fact = facts(cls())
        cells = (
            f"`{fact['name']}`",
            fact["averages"],
            fact["exact"],
            "equal" if fact["equal_ranks"] else "any",
            _parts(cls().parts(1).sends, cls().parts(2).sends),
            _parts(cls().parts(1).receives, cls().parts(2).receives),
            {"no": "-", "sent": "sent down", "kept": "on the server", "rest": "the rest"}[fact["base_change"]],
            "yes" if fact["secure"] else "no",
            ", ".join(f"`{name}`" for name in fact["options"]) or "-",
            _source(fact["paper"]),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _source(paper: str) -> str:
    """A link where there is an address."""
    return f"[{paper.rpartition('/')[2]}]({paper})" if "://" in paper else paper or "our own"


def _parts(first: frozenset[str], second: frozenset[str]) -> str:
    """What travels in odd rounds, and in even ones where that differs."""
    names = [", ".join(n.upper() if n != "head" else n for n in sorted(parts)) for parts in (first, second)]
    return names[0] if first == second else f"{names[0]} / {names[1]}"


def configuration_tables() -> str:
    """One table per section, from the pydantic models."""
    parts: list[str] = []
    for section, field in Config.model_fields.items():
        model = field.annotation
        assert isinstance(model, type)
        assert issubclass(model, Section)
        parts.append(f"## `[{section}]`\n\n{(model.__doc__ or '').partition(': ')[2]}\n")
        parts.append("| key | default | meaning | type (unit) | example |\n|" + "---|" * 5)
        for key, value in model.model_fields.items():
            default = "-" if value.default is None else f"`{_toml(value.default)}`"
            meaning = " ".join((value.description or "").split()).replace("``", "`")
            about = keys.about(section, key)
            kind = keys.kind(value)
            unit = f" ({about['unit']})" if "unit" in about else ""
            example = f"`{_toml(about['example'])}`" if "example" in about else "-"
            parts.append(f"| `{key}` | {default} | {meaning} | {kind}{unit} | {example} |")
        parts.append("")
    return "\n".join(parts).strip()


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _toml(value: object) -> str:
    """A value as one line of TOML; a table stands in braces."""
    if isinstance(value, Mapping):
        table = tomlkit.inline_table()
        table.update(value)
        return table.as_string()
    return tomlkit.item(value).as_string()


def _measured(name: str) -> dict[str, Any]:  # Any: JSON values
    found: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8"))
    return found


def _engines(part: str, name: str = "engines.json") -> str:
    return str(PARTS[part].table(_measured(name)[part]["rows"]))


def _diagnostic() -> str:
    path = tables.RESULTS / "diagnostic.json"
    return diagnostic.table(json.loads(path.read_text(encoding="utf-8"))["rows"]) if path.is_file() else "Not measured."


def _why() -> str:
    """What one round makes of a wide client's model, in per cent; "Not measured." where it was not."""
    path = tables.RESULTS / "diagnostic.json"
    if not path.is_file():
        return "Not measured."
    rows = ["| seed | alone | after zero padding | after replication |", "|---|---|---|---|"]
    for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
        if row["data"] == "ag_news":
            shares = (f"{100 * row[what]:.1f}" for what in ("alone", "zero_padding", "replication"))
            rows.append(f"| {row['seed']} | {' | '.join(shares)} |")
    return "\n".join(rows)


GENERATED = {
    "why": _why,
    "methods": methods_table,
    "configuration": configuration_tables,
    "adapter_fields": adapter_fields.table,
    "versus_flower": lambda: versus_flower.table(_measured("versus_flower.json")["results"]),
    **{part: lambda part=part: _engines(part) for part in PARTS},
    "width_h100": lambda: _engines("width", "engines-h100.json"),
    "flower_rounds": lambda: flower.table(_measured("flower.json")),
    "tree_fold": lambda: tree.fold_table(_measured("tree.json")),
    "tree_plan": lambda: tree.plan_table(_measured("tree.json")),
    "choices": lambda: choices.table(_measured("choices.json")["jobs"]),
    "neighbour": lambda: neighbour.table(_measured("neighbour.json")),
    "cluster": lambda: cluster.tables(_measured("cluster.json")),
    "secure_rounds": lambda: secure.tables(_measured("secure.json")),
    "privacy": lambda: privacy.accuracy_table(_measured("privacy.json")["accuracy"]).rstrip(),
    "membership": lambda: privacy.membership_table(_measured("privacy.json")["membership"]),
    "attacks": lambda: attacks.tables(_measured("attacks.json")),
    "fuzz": lambda: fuzz.table(_measured("fuzz.json")["hypothesis"]),
    "writers": lambda: writers.table(_measured("writers.json")),
    "releases": release.table,
    "cost": cost.table,
    "diagnostic": _diagnostic,
    "paper_chosen": lambda: tables.chosen(tables.studies("when_ag_news")),
    "paper_advice": lambda: advice.table(advice.score()),
    **{f"paper_{table}": lambda table=table: tables.show(table) for table in TABLES},
}


def updated(text: str) -> str:
    """The page with all generated parts replaced."""

    def replace(match: re.Match[str]) -> str:
        name = match[1]
        return f"<!-- begin {name} -->\n\n{GENERATED[name]()}\n\n<!-- end {name} -->"

    return re.sub(r"<!-- begin (\w+) -->.*?<!-- end \1 -->", replace, text, flags=re.DOTALL)


if __name__ == "__main__":
    for page in PAGES:
        path = ROOT / page
        path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")
    schema.FILE.write_text(schema.text(), encoding="utf-8")
    for picture, drawn in PICTURES.items():
        (ROOT / picture).write_text(drawn(), encoding="utf-8")
    public.FILE.write_text(public.updated(public.FILE.read_text(encoding="utf-8")), encoding="utf-8")
