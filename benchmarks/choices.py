"""What `auto` comes to, beside a full grid: ``python -m benchmarks.choices``.

For each job every precision, attention and number of clients to a pass, one pass at a time, two in lanes or two in
processes, trains whole rounds of the same cohort, and the shortest of them counts; then `auto` chooses, as often as
asked, each time without what it knew. The cells of a job are timed in turn, repeat by repeat; one that takes twice the
best is not repeated, and not tried side by side, where two cores cannot make it the best. The choice's figure is that
of its cell in the grid, so both are measured in one way. Clients hold fewer texts than in the jobs (``TEXTS``): as many
steps of the same shapes as show what a step costs. The best is that with which the whole job ends first, the start of
several processes included, which takes longer than some of these jobs.

Jobs: J1 to J3 of ``benchmarks.versus_flower`` (J1 needs ``--ag-news`` and ``--minilm``), both quickstarts, and two
decoders with random weights (a Llama and a GPT-2) on stdlib-signatures. Finished cells are kept in ``--work``, so it
can be stopped and started again. Prints a table and writes ``benchmarks/results/choices.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from benchmarks.versus_flower import POLYRANK, Places, Plan, config_of
from polyrank import config as configuration
from polyrank import ranks
from polyrank.config import Config
from polyrank.config.sections import MEASURED
from polyrank.core.cache import CACHE
from polyrank.federation.loading import load
from polyrank.federation.population import initial, read
from polyrank.federation.round import cohort
from polyrank.federation.site import Site
from polyrank.quickstart import config_path
from polyrank.tasks import settled
from polyrank.training.tuning.search import STARTING_SECONDS
from polyrank.training.work import Work

RESULT = Path(__file__).parent / "results" / "choices.json"
FORMS = tuple(product(("bfloat16", "float32"), ("eager", "sdpa")))
WIDTHS = (1, 2, 5, 10)
SIDE_BY_SIDE = ((1, 1), (2, 1), (1, 2))
"""Lanes and processes."""
HOPELESS = 2.0
FAR = 3.0
"""A form that takes so many times the best is not tried in wider passes."""
TEXTS = {"J1": 64, "J3": 32, "generative": 24, "llama": 12, "gpt2": 12}
"""Of a client, where they are not all of the job's."""
AUTO = tuple(f"training.{name}=auto" for name in MEASURED)
DECODERS: Mapping[str, Mapping[str, Any]] = {  # Any: values of a model's configuration
    "llama": {
        **{"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 8, "num_attention_heads": 8},
        **{"num_key_value_heads": 2, "tie_word_embeddings": True},
    },
    "gpt2": {"n_embd": 384, "n_layer": 6, "n_head": 6, "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1},
}


@dataclass(frozen=True)
class Cell:
    """One way to train."""

    precision: str
    attention: str
    width: int
    lanes: int
    processes: int

    @property
    def settings(self) -> list[str]:
        """For the configuration."""
        return [
            *(f"training.precision={self.precision}", f"training.attention={self.attention}"),
            *("training.engine=batched", f"training.clients_per_pass={self.width}"),
            *(f"training.lanes={self.lanes}", f"training.workers={self.processes}"),
        ]

    def __str__(self) -> str:
        lanes = f" in {self.lanes} lanes" if self.lanes > 1 else ""
        processes = f" in {self.processes} processes" if self.processes > 1 else ""
        return f"{self.precision} {self.attention} {self.width}{lanes}{processes}"


CELLS = tuple(Cell(*form, width, *beside) for beside, form, width in product(SIDE_BY_SIDE, FORMS, WIDTHS))


def decoder(kind: str, work: Path) -> Path:
    """The folder of such a decoder with random weights and the quickstart's tokenizer; made where it is missing."""
    folder = work / kind
    if not folder.is_dir():
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        from polyrank.quickstart import decoder_path

        tokenizer = AutoTokenizer.from_pretrained(decoder_path())
        ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
        config = AutoConfig.for_model(kind, **DECODERS[kind], vocab_size=len(tokenizer), **ends)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def job(name: str, places: Places) -> Config:
    """Everything open."""
    config = _whole(name, places)
    return configuration.override(config, [f"data.size={TEXTS[name]}"]) if name in TEXTS else config


def _whole(name: str, places: Places) -> Config:
    if name.startswith("J"):
        return configuration.override(
            config_of(Plan(name, "none" if name == "J2" else "keep", 0, 0, 0, POLYRANK, 20), places), AUTO
        )
    if name == "classification":
        return configuration.load(None, AUTO)
    path = config_path("generative")
    if name == "generative":
        return configuration.load(path, AUTO)
    return configuration.load(path, [*AUTO, f"model.name={decoder(name, places.work)}", "training.lr=1e-4"])


JOBS = ("J1", "J2", "J3", "classification", "generative", *DECODERS)


def site_of(config: Config) -> Site:
    """Loaded, with its choice made anew."""
    os.environ[CACHE] = ""
    config = settled(config)
    return load(config, read(config, ranks.policy(config.ranks)))


def works_of(site: Site) -> list[Work]:
    """The first round's cohort."""
    options = site.config.federation
    names = cohort(sorted(site.examples), options.participation, options.seed, 1)
    adapter = initial(site.resident, site.config)
    return [Work(name, 1, adapter, seed) for seed, name in enumerate(names)]


def timed(config: Config, cell: Cell, rounds: int) -> float:
    """The shortest of some rounds after one that warms up."""
    site = site_of(configuration.override(config, cell.settings))
    works = works_of(site)
    seconds = []
    try:
        for _ in range(rounds + 1):
            start = time.perf_counter()
            for _ in site.engine.run(works):
                pass
            seconds.append(time.perf_counter() - start)
    finally:
        site.engine.close()
    return min(seconds[1:])


def choice(config: Config) -> tuple[Cell, float]:
    """What `auto` comes to, and how long loading and choosing took."""
    start = time.perf_counter()
    site = site_of(config)
    seconds = time.perf_counter() - start
    found = site.config.training
    site.engine.close()
    assert found.clients_per_pass != "auto"
    assert found.lanes != "auto"
    assert found.workers != "auto"
    return Cell(found.precision, found.attention, found.clients_per_pass, found.lanes, found.workers), seconds


def measure(name: str, places: Places, repeats: int, chosen: int) -> dict[str, Any]:
    """A job's grid and its choices; what is finished is read from the folder."""
    path = places.work / f"{name}.json"
    found: dict[str, Any] = {"grid": {}, "choices": []}
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
    config = job(name, places)
    whole = _whole(name, places).data.size
    found["rounds"] = config.federation.rounds * (whole / TEXTS[name] if name in TEXTS and whole else 1)

    def keep() -> None:
        path.write_text(json.dumps(found, indent=1), encoding="utf-8")

    grid: dict[str, list[float]] = found["grid"]
    for repeat in range(repeats):
        for cell in CELLS:
            own = grid.setdefault(str(cell), [])
            best = min((min(seconds) for seconds in grid.values() if seconds), default=0.0)
            alone = grid.get(str(replace(cell, lanes=1, processes=1)), [])
            narrower = [
                min(grid[name])
                for width, one in product(
                    WIDTHS[: WIDTHS.index(cell.width)], (cell, replace(cell, lanes=1, processes=1))
                )
                if grid.get(name := str(replace(one, width=width)))
            ]
            hopeless = min([*own, *alone], default=0.0) > HOPELESS * best or min(narrower, default=0.0) > FAR * best
            if len(own) > repeat or hopeless:
                continue
            own.append(timed(config, cell, 1))
            keep()
    while len(found["choices"]) < chosen:
        cell, seconds = choice(config)
        found["choices"].append({"chosen": str(cell), "seconds": seconds})
        keep()
    return found


def row(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """The grid's best, and what was chosen."""
    grid = {cell: min(seconds) for cell, seconds in found["grid"].items() if seconds}
    took = {
        cell: found["rounds"] * seconds + (STARTING_SECONDS if cell.endswith("processes") else 0)
        for cell, seconds in grid.items()
    }
    best = min(took, key=lambda cell: took[cell])
    chosen = [
        {
            **one,
            "per_round": grid.get(one["chosen"]),
            "times": took[one["chosen"]] / took[best] if one["chosen"] in grid else None,
        }
        for one in found["choices"]
    ]
    about = {"job": name, "rounds": found["rounds"], "best": best, "per_round": grid[best], "took": took[best]}
    return {**about, "choices": chosen, "grid": grid}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=JOBS)
    parser.add_argument("--work", type=Path, default=Path("choices"))
    parser.add_argument("--ag-news", type=Path)
    parser.add_argument("--minilm", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--choices", type=int, default=3, help="of each job")
    chosen = parser.parse_args(arguments)
    chosen.work.mkdir(parents=True, exist_ok=True)
    places = Places(chosen.work.absolute(), chosen.ag_news, chosen.minilm, None, 2, ())
    for name in chosen.jobs:
        measure(name, places, chosen.repeats, chosen.choices)
    rows = [
        row(name, json.loads((chosen.work / f"{name}.json").read_text(encoding="utf-8")))
        for name in JOBS
        if (chosen.work / f"{name}.json").is_file()
    ]
    RESULT.write_text(json.dumps({"jobs": rows, "machine": machine()}, indent=1) + "\n", encoding="utf-8")
    print(table(rows))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| job | best of the grid | s per round | s in all | chosen | times the best | s until it trains |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in rows:
        made = one["choices"]
        times = ", ".join(f"{own['times']:.2f}" if own["times"] else "not in the grid" for own in made)
        waited = ", ".join(f"{own['seconds']:.0f}" for own in made)
        chosen = ", ".join(own["chosen"] for own in made)
        first = f"| {one['job']} | {one['best']} | {one['per_round']:.2f} | {one['took']:.0f}"
        lines.append(f"{first} | {chosen} | {times} | {waited} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
