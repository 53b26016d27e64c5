"""``python -m benchmarks.engines``: measure, print and write."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.engines import arithmetic, compiled, growth, width
from benchmarks.engines.work import encoders
from benchmarks.machine import machine

RESULT = Path(__file__).parents[1] / "results" / "engines.json"
PARTS = {"arithmetic": arithmetic, "width": width, "growth": growth, "compile": compiled}


def tables(report: Mapping[str, Any]) -> str:
    """Markdown, one table per part that was measured."""
    return "\n\n".join(part.table(report[name]["rows"]) for name, part in PARTS.items() if name in report)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the chosen parts and keep the others."""
    about = "\n".join(part.__doc__ or "" for part in PARTS.values())
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--minilm", type=Path, metavar="DIR", help="all-MiniLM-L6-v2 as save_pretrained writes it")
    parser.add_argument("--ag-news", type=Path, metavar="DIR", help="train.csv and test.csv, columns text and label")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark-engines"), help="folder of temporary files")
    parser.add_argument("--result", type=Path, default=RESULT, help="JSON file to write")
    parser.add_argument("--point", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    os.environ["HF_HUB_OFFLINE"] = "1"
    chosen.work.mkdir(parents=True, exist_ok=True)
    if chosen.point:
        print(json.dumps(growth.point(chosen.point[0], int(chosen.point[1]), chosen.work)))
        return
    report: dict[str, Any] = {}
    if chosen.result.is_file():
        report = json.loads(chosen.result.read_text(encoding="utf-8"))
    measure: Mapping[str, Callable[[], list[dict[str, Any]]]] = {
        "arithmetic": lambda: arithmetic.measure(encoders(chosen.work, chosen.minilm, chosen.ag_news)),
        "width": lambda: width.measure(width.shapes(chosen.work)),
        "compile": lambda: compiled.measure(encoders(chosen.work, chosen.minilm, chosen.ag_news)),
        "growth": lambda: growth.measure(chosen.work),
    }
    chosen.result.parent.mkdir(parents=True, exist_ok=True)
    for name in chosen.parts:
        report[name] = {"machine": machine(), "rows": measure[name]()}
        chosen.result.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(tables(report))


if __name__ == "__main__":
    main()
