"""Run folders of models that write, written in a moment: whose loss falls by kind as a test says."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polyrank.runs.folder import RunFolder
from polyrank.tasks.causal_lm.task import TOO_LONG
from tests.report.folders import write_run

KINDS = ("poems", "recipes")
SAMPLES = ({"prompt": "What is red?", "reference": "An apple.", "before": "is is is", "after": "An apple."},)


def write(
    folder: Path,
    method: str = "replication",
    seed: int = 0,
    *,
    before: float = 5.0,
    losses: Sequence[float | None] = (4.0, 3.0, 2.0),
    kinds: Mapping[str, tuple[float, float]] | None = None,
    samples: Sequence[Mapping[str, Any]] = SAMPLES,
    constant: float = 4.5,
    of: str = "training",
    planned: int | None = None,
) -> Path:
    """A run with a line of round 0 and one per loss; None is a loss that was not finite.

    ``kinds`` is kind -> its loss before and in the last round; by default all are as the whole, but a fifth better or
    worse.
    """
    write_run(folder, method, seed, len(losses), labels=KINDS, task="causal-lm", diagnosed=False, planned=planned)
    files = RunFolder(folder)
    lines = [json.loads(line) for line in files.metrics.read_text(encoding="utf-8").splitlines()]
    found = [{"round": 0, **measured(before, of_kinds(before, kinds, 0)), "seconds": 0.5}]
    for line, loss in zip(lines, losses, strict=True):
        rest = {key: value for key, value in line.items() if not key.startswith("test/")}
        found.append({**rest, **measured(loss, of_kinds(loss, kinds, 1))})
    files.metrics.write_text("".join(json.dumps(line) + "\n" for line in found), encoding="utf-8")
    files.write_json("samples", {"samples": list(samples)})
    clients = files.read_json("clients")
    clients["clients"]["client-1"]["left_out"] = {TOO_LONG: 3}
    clients["clients"]["client-2"]["left_out"] = {TOO_LONG: 1}
    files.write_json("clients", clients)
    if (folder / "summary.json").is_file():
        summary = files.read_json("summary")
        del summary["constant/accuracy"]
        values = {"loss": constant, "perplexity": math.exp(constant), "token_accuracy": 0.1}
        for group in summary["rank_groups"]:
            group.update({"loss": 2.0, "perplexity": math.exp(2.0)})
        summary |= {f"constant/{name}": value for name, value in values.items()} | {"constant/of": of}
        files.write_json("summary", summary)
    return folder


def of_kinds(loss: float | None, kinds: Mapping[str, tuple[float, float]] | None, at: int) -> dict[str, float | None]:
    if kinds is not None:
        return {kind: values[at] for kind, values in kinds.items()}
    return {kind: None if loss is None else loss * share for kind, share in zip(KINDS, (0.8, 1.2), strict=True)}


def measured(loss: float | None, kinds: Mapping[str, float | None]) -> dict[str, Any]:
    def exp(value: float | None) -> float | None:
        return None if value is None else math.exp(value)

    return {
        **{"test/loss": loss, "test/perplexity": exp(loss), "test/token_accuracy": 0.3},
        "test/loss_by_kind": dict(kinds),
        "test/perplexity_by_kind": {kind: exp(value) for kind, value in kinds.items()},
    }
