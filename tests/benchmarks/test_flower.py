from __future__ import annotations

from pathlib import Path

from benchmarks.flower import CLIENTS, RANKS, settings, table

from polyrank import config


def test_adapters_are_of_the_sizes_that_they_are_called_by():
    """LoRA of rank r on all linear layers of DistilBERT's six blocks, and a head on the mean of hidden states."""
    for megabytes, rank in RANKS.items():
        chosen = config.load(None, settings(Path("some/model"), rank))
        assert (chosen.ranks.levels, chosen.federation.clients) == ([rank], CLIENTS)
        per_rank = 6 * (4 * (768 + 768) + 2 * (768 + 3072))
        assert abs(4 * rank * per_rank / 1e6 - megabytes) < 0.1


def test_the_table_shows_what_is_not_measured_yet():
    row = {"bytes": 1_000_000, "beyond": 8.24, "from": 7.0, "to": 9.0}
    lines = table({"measurements": {"resident/1": row}}).splitlines()
    assert lines[2] == "| 1.0 MB | - | - | 8.2 s (7.0 to 9.0) |"
    assert lines[4] == "| 64 MB | - | - | - |"
