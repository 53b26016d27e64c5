"""The ranks that fit what clients can send in a round, and a run with them."""

from __future__ import annotations

import argparse
from pathlib import Path

import polyrank
from polyrank.core.text import read_size, size
from polyrank.federation.planning.fitting import rank_for_uplink
from polyrank.federation.planning.outlook import outlook


def ranks_for(config: polyrank.Config, budgets: dict[str, float]) -> tuple[list[int], list[float]]:
    """Levels, ascending, and the share of the clients at each: budgets are texts such as ``"300kB"``."""
    ahead = outlook(config)
    fitting = {budget: rank_for_uplink(ahead, read_size(budget)) for budget in budgets}
    levels = sorted(set(fitting.values()))
    return levels, [sum(budgets[budget] for budget in budgets if fitting[budget] == rank) for rank in levels]


def main() -> None:
    """Find the ranks and run."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--slow", default="300kB", help="what a third of the clients can send in a round")
    options.add_argument("--fast", default="1.2MB", help="what the others can send")
    options.add_argument("--out", default="run", help="the run folder")
    options.add_argument("--set", action="append", default=[], help="as of polyrank run")
    chosen = options.parse_args()
    config = polyrank.load_config(Path(__file__).with_name("study.toml"), chosen.set)
    levels, shares = ranks_for(config, {chosen.slow: 1 / 3, chosen.fast: 2 / 3})
    print(f"ranks {levels} for shares {[round(share, 2) for share in shares]}")
    found = polyrank.load_config(
        Path(__file__).with_name("study.toml"), [*chosen.set, f"ranks.levels={levels}", f"ranks.shares={shares}"]
    )
    summary = polyrank.run(found, chosen.out)
    print(f"sent {size(summary['bytes/up'])} up; perplexity {summary['test/perplexity']:.1f}")


if __name__ == "__main__":
    main()
