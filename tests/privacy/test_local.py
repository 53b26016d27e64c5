"""What a client sends under local privacy: within the bound, and noised as said."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from polyrank.core.adapter import Adapter, Factors
from polyrank.privacy import Guard
from polyrank.training.guarded import guarded
from polyrank.training.work import Outcome, Work

START = Adapter({"q": Factors(torch.zeros(3, 50), torch.zeros(40, 3), 3.0)}, {"head": torch.ones(4, 5)})


def moved(size: float) -> dict[str, torch.Tensor]:
    return {name: tensor + size for name, tensor in START.tensors()}


def change(sent: dict[str, torch.Tensor], scale: float) -> dict[str, torch.Tensor]:
    """At the global scale."""
    before = dict(START.tensors())
    return {n: (t - before[n]).double() * (3.0 / scale if n == "q.b" else 1.0) for n, t in sent.items()}


@pytest.mark.parametrize(("size", "expected"), [(10.0, 0.5), (1e-5, None)])
def test_the_change_is_clipped_at_the_global_scale(size: float, expected: float | None):
    sent = Guard(0.5, 1e-9, 1.5, secret="s").hide(moved(size), START, ("ann", 1))
    norm = math.sqrt(sum(float(t.square().sum()) for t in change(sent, 1.5).values()))
    own = math.sqrt(sum(float(t.square().sum()) for t in change(moved(size), 1.5).values()))
    assert norm == pytest.approx(expected or own, rel=1e-2)


def test_the_noise_has_its_scale_on_every_value():
    draws = [
        torch.cat(
            [
                t.flatten()
                for t in change(
                    Guard(0.5, 4.0, 1.5, secret=f"s{i}").hide(dict(START.tensors()), START, ("ann", 1)), 1.5
                ).values()
            ]
        )
        for i in range(60)
    ]
    found = torch.cat(draws).numpy() / (4.0 * 0.5)
    assert stats.kstest(found, "norm").pvalue > 1e-4
    assert np.std(found) == pytest.approx(1.0, rel=0.02)


def test_without_a_secret_from_outside_the_client_has_one_of_its_own():
    own = Guard(0.5, 1.0, 1.5)
    first, second = (own.hide(moved(1.0), START, ("ann", 1)) for _ in range(2))
    assert not torch.equal(first["q.a"], second["q.a"])
    known = Guard(0.5, 1.0, 1.5, secret="s")
    assert torch.equal(*(known.hide(moved(1.0), START, ("ann", 1))["q.a"] for _ in range(2)))
    assert not torch.equal(
        known.hide(moved(1.0), START, ("ann", 2))["q.a"], known.hide(moved(1.0), START, ("ann", 1))["q.a"]
    )
    assert "secret" not in repr(Guard(0.5, 1.0, 1.5, secret="s"))


def test_what_stays_with_the_client_is_neither_clipped_nor_noised_and_takes_nothing_of_the_bound():
    trained = moved(0.0) | {"q.a": START.modules["q"].a + 1e-3, "head": START.dense["head"] + 100.0}
    sent = Guard(0.5, 1e-9, 1.5, keeps=frozenset({"head"}), secret="s").hide(trained, START, ("ann", 1))
    assert torch.equal(sent["head"], trained["head"])
    assert torch.allclose(sent["q.a"], trained["q.a"], atol=1e-6)


def test_an_outcome_leaves_without_what_was_measured():
    outcome = Outcome("ann", moved(1.0), 7.0, {"loss": 0.25, "steps": 3}, scores={"accuracy": 0.5})
    work = Work("ann", 1, START, 0, guard=Guard(0.5, 1.0, 1.5, secret="s"))
    sent = guarded(outcome, work)
    assert (sent.metrics, sent.scores) == ({}, {})
    assert sent.trained is not None
    assert not torch.equal(sent.trained["head"], moved(1.0)["head"])
    told = guarded(outcome, Work("ann", 1, START, 0, guard=Guard(0.5, 1.0, 1.5, metrics=True, secret="s")))
    assert told.metrics == outcome.metrics
    assert guarded(outcome, Work("ann", 1, START, 0)) is outcome


def test_what_is_not_finite_does_not_leave():
    bad = moved(1.0) | {"head": torch.full((4, 5), math.nan)}
    sent = guarded(Outcome("ann", bad, 7.0), Work("ann", 1, START, 0, guard=Guard(0.5, 1.0, 1.5)))
    assert sent.trained is None
    assert "NaN" in sent.problem
