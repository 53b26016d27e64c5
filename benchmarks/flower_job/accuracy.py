"""Test accuracy of an adapter: ``python -m benchmarks.flower_job.accuracy CONFIG OUT``.

Reads ``adapter.safetensors`` from OUT and writes ``accuracy.json`` there. A process of its own, after the run, so that
neither its time nor its memory counts.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from peft import set_peft_model_state_dict
from safetensors.torch import load_file

from benchmarks.flower_job.recipe import accuracy, build, work


def main() -> None:
    """Measure once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="TOML file of the job")
    parser.add_argument("out", type=Path, help="folder of the run")
    chosen = parser.parse_args()
    model = build(str(chosen.config))
    set_peft_model_state_dict(model, load_file(chosen.out / "adapter.safetensors"))
    value = accuracy(model, work(str(chosen.config)))
    (chosen.out / "accuracy.json").write_text(json.dumps(value) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
