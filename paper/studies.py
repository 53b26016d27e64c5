"""What is measured: every table as a list of studies, each a comparison under one setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from polyrank.aggregation import METHODS

SEED_PAPER = ("replication", "zero_padding", "hetlora", "fedavg")
"""Replication, zero padding, Frobenius weights, and equal ranks at 5, 7 and 20."""
QUICKSTART = ("replication", "tempered", "zero_padding", "zero_padding_delta", "fedavg")
EVERY = tuple(METHODS)
WHEN = (
    *("replication", "tempered", "shrinkage", "zero_padding_delta", "zero_padding"),
    "zero_padding:keep_unowned=true",  # dilution without wiping
    *("validated", "fedhl", "flexlora", "raflora"),
)
MAIN = ("replication", "zero_padding", "zero_padding_delta", "flexlora", "fedhl", "raflora", "fedavg", "validated")
"""Those that lead in some setting, zero padding in both forms, and the low rank for everybody."""
CHECKED = ("replication", "tempered", "zero_padding_delta", "zero_padding", "validated", "fedhl")
"""By methods that lead in some setting of ``WHEN``."""
THREE_LAYERS = "model.config.num_hidden_layers=3"
FOUR_RANKS = ("ranks.levels=[4, 8, 16, 32]", "ranks.shares=[0.25, 0.25, 0.25, 0.25]")
GAMMAS = (*(f"tempered:gamma={gamma}" for gamma in (0, 0.1, 0.25, 0.5, 0.75, 1)), "shrinkage", "replication")
"""From owner mean to zero padding, with a gamma that is fixed and one that follows from the owners' variance."""


@dataclass(frozen=True)
class Study:
    """One comparison.

    Args:
        name: unique in its table.
        data: a file of ``paper/configs``, or ``quickstart`` for the embedded model and text.
        methods: as `polyrank.comparison.entries.entries` takes them.
        overrides: of the configuration.
        seeds: that are run.
        baseline_ranks: of methods that need equal ranks, as `polyrank.comparison.entries.entries` takes them.
    """

    name: str
    data: str
    methods: Sequence[str]
    overrides: Sequence[str] = ()
    seeds: Sequence[int] = (0, 1, 2)
    baseline_ranks: Sequence[int] | None = None


CHANGES: Mapping[str, Sequence[str]] = {
    "base": (),
    "owners-5": ("ranks.shares=[0.95, 0.05]",),
    "owners-30": ("ranks.shares=[0.7, 0.3]",),
    "participation-30": ("federation.participation=0.3",),
    "ranks-random": ("ranks.policy=random",),
    "ranks-amount": (
        *("data.partition=size-groups", "data.options={times=8}", "data.size=32"),
        "data.alpha=0.5",  # with 0.1, as elsewhere, nobody learns
        *("ranks.policy=fixed", "ranks.by_name={large=20, small=5}", "data.hold_out=true"),
    ),
    "ranks-oracle": ("ranks.policy=fixed", "ranks.by_name={balanced=20, skewed=5}"),
    "lr-1e-3": ("training.lr=1e-3",),
    "lr-2e-3": ("training.lr=2e-3",),
    "lr-1e-2": ("training.lr=1e-2",),
    "epochs-3": ("training.epochs=3",),
    "ranks-5-8": ("ranks.levels=[5, 8]",),
    "ranks-1-32": ("ranks.levels=[1, 32]",),
}
"""One thing at a time; ``base`` is the setting itself."""


def _when(data: str, overrides: Sequence[str]) -> list[Study]:
    """Every change."""
    return [Study(name, data, WHEN, (*overrides, *change), range(5)) for name, change in CHANGES.items()]


def _rates() -> list[Study]:
    """The main table's methods at four learning rates; 3e-3 is the setting itself."""
    rates = {"lr-1e-3": "lr-1e-3", "lr-2e-3": "lr-2e-3", "lr-3e-3": "base", "lr-1e-2": "lr-1e-2"}
    changes = {name: (THREE_LAYERS, *CHANGES[change]) for name, change in rates.items()}
    return [Study(name, "ag_news", MAIN, change, baseline_ranks=(5,)) for name, change in changes.items()]


def _check(data: str) -> list[Study]:
    """What was chosen on AG News and the quickstart, on data that had no part in it.

    Where ranks do not come from a validation set, it is held out all the same: all methods have the same data.
    """
    drawn = (*CHANGES["ranks-random"], "data.hold_out=true")
    changes = {data: CHANGES["base"], f"{data}-ranks-random": drawn, f"{data}-lr-1e-2": CHANGES["lr-1e-2"]}
    return [Study(name, data, CHECKED, (THREE_LAYERS, *change)) for name, change in changes.items()]


TABLES: Mapping[str, Sequence[Study]] = {
    "quickstart": [Study("quickstart", "quickstart", QUICKSTART)],
    "curves": [Study(data, data, SEED_PAPER) for data in ("ag_news", "dbpedia")],
    "main": [
        Study("ranks-5-20", "ag_news", MAIN, (THREE_LAYERS,), range(5), (5,)),
        Study("ranks-4-8-16-32", "ag_news", MAIN, (THREE_LAYERS, *FOUR_RANKS), baseline_ranks=(4,)),
    ],
    "rates": _rates(),
    "methods": [
        Study("ranks-5-20", "ag_news", EVERY, (THREE_LAYERS,)),
        Study("ranks-4-8-16-32", "ag_news", EVERY, (THREE_LAYERS, *FOUR_RANKS)),
    ],
    "generative": [
        Study("dolly", "dolly", EVERY),
        Study("dolly-calm", "dolly", ("replication", "zero_padding", "flexlora"), ("training.lr=5e-4",)),
        Study("signatures", "generative", QUICKSTART, ("evaluation.samples=0",)),
    ],
    "smollm2": [
        Study(
            "dolly",
            "dolly",
            ("replication", "zero_padding", "flexlora"),
            ("training.lr=3e-4", "federation.rounds=5", "data.size=30"),
            (0,),
        )
    ],
    "when_quickstart": _when("quickstart", ()),
    "when_ag_news": _when("ag_news", (THREE_LAYERS,)),
    "check": [*_check("trec6"), *_check("dbpedia")],
    "gamma": [
        Study("quickstart", "quickstart", GAMMAS, seeds=range(5)),
        Study("ag_news", "ag_news", GAMMAS, (THREE_LAYERS,), range(5)),
    ],
}
