from __future__ import annotations

import json
from pathlib import Path

import pytest

from polyrank import config as configuration
from polyrank.aggregation import METHODS
from polyrank.config import Config
from polyrank.core.errors import ConfigError, DataError
from polyrank.federation.forecast import Forecast, Span, forecast, outlook
from polyrank.runs.runner import run
from tests.conftest import Configure

MISTRAL = {
    **{"model_type": "mistral", "architectures": ["MistralForCausalLM"], "vocab_size": 32768, "hidden_size": 4096},
    **{"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336},
}


def ahead(config: Config) -> Forecast:
    return forecast(outlook(config))


def ran(config: Config, folder: Path) -> tuple[int, int]:
    """Bytes up and down of a finished run, which are those of its lines and of its scoring round."""
    summary = run(config, folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    scoring = json.loads((folder / "clients.json").read_text())["scoring"]
    for way in ("bytes/up", "bytes/down"):
        assert summary[way] == sum(line[way] for line in lines) + scoring[way]
    return summary["bytes/up"], summary["bytes/down"]


EXACT = sorted(set(METHODS) - {"fedavg", "florist"})


@pytest.mark.parametrize("method", EXACT)
def test_the_bytes_are_those_that_a_finished_run_reports(configure: Configure, tmp_path: Path, method: str):
    """Two levels of ranks, and rounds that differ: those that alternate, and base changes that grow."""
    config = configure(f"aggregation.method={method}", "federation.participation=0.34", "ranks.levels=[1,2]")
    found = ahead(config)
    assert (found.up.exact, found.down.exact, found.notes) == (True, True, ())
    assert ran(config, tmp_path / "run") == (found.up.most, found.down.most)


def mistral(tmp_path: Path, *overrides: str) -> Config:
    """Mistral-7B by its config.json alone: no weights, no tokenizer, no data."""
    (tmp_path / "config.json").write_text(json.dumps(MISTRAL), encoding="utf-8")
    text = configuration.parse(
        {
            "model": {"name": str(tmp_path), "targets": ["q_proj", "v_proj"]},
            "data": {"train": "nowhere.jsonl", "partition": "iid"},
            "task": {"name": "causal-lm"},
            "federation": {"clients": 20, "participation": 0.1, "rounds": 200},
            "ranks": {"policy": "fixed", "levels": [32]},
        },
        "tests",
    )
    return configuration.override(text, overrides)


def test_flowertune_s_baseline_sends_what_flower_publishes(tmp_path: Path):
    """40.6 GiB for 200 rounds of 2 clients, both ways; https://flower.ai/benchmarks/llm-leaderboard says 40.7 GB."""
    found = ahead(mistral(tmp_path))
    (level,) = found.levels
    assert (found.cohort, found.head) == (2, 0)
    assert level.parameters == Span(13_631_488, 13_631_488)  # 32 layers of rank 32: q 4096 + 4096, v 4096 + 1024
    assert level.up == level.down == Span(54_525_952, 54_525_952)
    assert round((found.up.most + found.down.most) / 2**30, 3) == 40.625
