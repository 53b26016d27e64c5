"""What few logits save of time and memory: ``python -m benchmarks.writers``.

A Llama of SmolLM2-135M's shape (30 layers of 576, 49,152 words, random weights). Two parts:

- ``step``: forward and backward of 4 rows of 256 tokens, of which 96 are trained, in PolyRank's way and with all
  logits, in turn; the ratio of the shortest times. Of the products' multiplications the output layer has 21 %: where
  they are what takes the time, the ratio cannot be under 0.87; where they are fast (AMX), softmax and copies of 50
  million logits weigh more, and it is far lower;
- ``evaluate``: the peak of the resident set over what the process held with the model loaded, for 24 rows of 512
  tokens, all of them trained, at two batch sizes; each figure from a process of its own, Linux only.

Prints a table and writes ``benchmarks/results/writers.json``.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import machine
from polyrank.tasks.causal_lm import CausalLM
from polyrank.tasks.causal_lm.task import NOT_TRAINED
from polyrank.tasks.task import Batch, Examples

RESULT = Path(__file__).parent / "results" / "writers.json"
TASK = CausalLM()
BATCH_SIZES = (8, 256)
ROWS = 24


def model() -> Any:  # Any: transformers' own
    """SmolLM2-135M's shape with random weights, LoRA of rank 16 on all its linear layers."""
    from peft import LoraConfig, inject_adapter_in_model
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
    made = LlamaForCausalLM(
        LlamaConfig(**shape, num_key_value_heads=3, vocab_size=49_152, tie_word_embeddings=True, use_cache=False)
    )
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    inject_adapter_in_model(LoraConfig(r=16, target_modules=targets), made)
    return made


def examples(rows: int, tokens: int, trained: int) -> Examples:
    """Random rows of one length, of which the last tokens are trained."""
    random = np.random.default_rng(0)
    targets = np.empty(rows, dtype=object)
    targets[:] = [np.arange(tokens) >= tokens - trained for _ in range(rows)]
    return Examples(tuple(random.integers(49_152, size=(rows, tokens))), targets, 0)


def all_logits(model: Any, batch: Batch) -> Tensor:  # Any: as above
    """The same loss of logits at all places, as `transformers` computes it."""
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, :-1].float()
    each = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch.targets[:, 1:].flatten(), ignore_index=NOT_TRAINED, reduction="none"
    )
    return each.view(len(batch.targets), -1).sum(dim=1)


def step(pairs: int) -> dict[str, Any]:
    """Seconds of a step in both ways, in turn."""
    made, held = model(), examples(4, 256, 96)
    batch = TASK.collate([(held, range(4))], torch.device("cpu"))
    ways = {"answers": TASK.losses, "all": all_logits}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    losses = {}
    for _ in range(pairs + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            loss = way(made, batch).sum() / TASK.units(held, range(4))
            torch.autograd.backward(loss)
            seconds[name].append(time.perf_counter() - start)
            losses[name] = float(loss.detach())
    best = {name: min(own[1:]) for name, own in seconds.items()}
    return {"seconds": best, "ratio": best["answers"] / best["all"], "losses": losses}


def evaluation(batch_size: int) -> dict[str, Any]:
    """Bytes beside the model while so many rows are measured at a time."""
    made, held = model().eval(), examples(ROWS, 512, 511)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: making the model had one of its own
    before = _resident("VmRSS")
    with torch.inference_mode():
        for start in range(0, ROWS, batch_size):
            TASK.scores(made, TASK.collate([(held, range(start, min(start + batch_size, ROWS)))], torch.device("cpu")))
    return {"batch_size": batch_size, "bytes": _resident("VmHWM") - before}


def _resident(name: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)[1]) * 1024  # type: ignore[index]


def table(found: Mapping[str, Any]) -> str:
    """Markdown."""
    step, seconds = found["step"], found["step"]["seconds"]
    times = f"{seconds['answers']:.1f} s / {seconds['all']:.1f} s = {step['ratio']:.2f}"
    lines = ["| what | measured |", "|---|---|", f"| a step, logits at answers / at all places | {times} |"]
    for one in found["evaluate"]:
        what = f"evaluation beside the model, `evaluation.batch_size = {one['batch_size']}`"
        lines.append(f"| {what} | {one['bytes'] / 2**30:.2f} GiB |")
    return "\n".join(lines)


def main() -> None:
    """Both parts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--evaluate", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.evaluate:
        print(json.dumps(evaluation(chosen.evaluate)))
        return
    own = [sys.executable, "-m", "benchmarks.writers", "--evaluate"]
    found: dict[str, Any] = {"step": step(chosen.pairs), "evaluate": [], "machine": machine()}
    for size in BATCH_SIZES:
        said = subprocess.run([*own, str(size)], check=True, capture_output=True, text=True).stdout
        found["evaluate"].append(json.loads(said.splitlines()[-1]))
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
