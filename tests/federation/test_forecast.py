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
