from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from polyrank.core.errors import ConfigError
from polyrank.report.runs import grouped
from polyrank.report.statistics import area, at_end, bytes_to, compare, holm, paired, rounds_to, spread
from tests.report.records import made

ACCURACY = st.floats(0.01, 0.99)


def test_rounds_and_bytes_to_a_target_by_hand():
    """Scoring sends 150 bytes and each round 30: 0.5 is reached in round 3, with 150 + 3 * 30 = 240."""
    run = made([0.2, 0.4, 0.5, 0.3, 0.6])
    assert (rounds_to(run, 0.5), bytes_to(run, 0.5)) == (3, 240)
    assert (rounds_to(run, 0.7), bytes_to(run, 0.7)) == (None, None)


def test_rounds_without_evaluation_count_in_bytes_and_not_in_curves():
    """Round 2 is the first that is evaluated: 150 + 2 * 30 = 210."""
    run = made([None, 0.5, None, 0.7])
    assert (run.rounds, run.values, run.traffic) == ([2, 4], [0.5, 0.7], [210, 270])
    assert (rounds_to(run, 0.4), bytes_to(run, 0.4)) == (2, 210)


def test_accuracy_at_the_end_is_the_mean_of_five_rounds_or_of_fewer():
    assert at_end(made([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])) == pytest.approx(0.3)
    assert at_end(made([0.1, 0.3])) == pytest.approx(0.2)


def test_the_area_by_hand():
    """Trapezoids (0.2 + 0.4) / 2 and (0.4 + 0.6) / 2 are 0.3 and 0.5 over two rounds: 0.4; one round is its own."""
    assert area(made([0.2, 0.4, 0.6])) == pytest.approx(0.4)
    assert area(made([0.7])) == 0.7


@given(st.lists(st.none() | ACCURACY, min_size=2, max_size=30))
def test_the_area_is_numpys(values: list[float | None]):
    run = made(values)
    if len(run.rounds) < 2:
        return
    expected = np.trapezoid(run.values, run.rounds) / (run.rounds[-1] - run.rounds[0])
    assert area(run) == pytest.approx(float(expected))


@given(st.lists(st.tuples(ACCURACY, ACCURACY), min_size=2, max_size=12))
def test_paired_differences_are_scipys(pairs: list[tuple[float, float]]):
    """The interval by its formula: mean ± t(0.975, n - 1) s / sqrt(n), and the p-value of the paired t-test."""
    ours, theirs = ({seed: pair[i] for seed, pair in enumerate(pairs)} for i in (0, 1))
    gaps = np.array([one - other for one, other in pairs])
    found = paired(ours, theirs)
    assert found is not None
    assert found.pairs == len(pairs)
    assert found.mean == pytest.approx(gaps.mean(), abs=1e-12)
    if np.ptp(gaps) < 1e-6:
        return
    half = stats.t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / len(gaps) ** 0.5
    assert found.low == pytest.approx(gaps.mean() - half, rel=1e-6, abs=1e-9)
    assert found.high == pytest.approx(gaps.mean() + half, rel=1e-6, abs=1e-9)
    assert found.p == pytest.approx(stats.ttest_1samp(gaps, 0).pvalue, rel=1e-6, abs=1e-9)


def test_differences_that_only_rounding_tells_apart_are_equal():
    """0.3 - 0.2 and 0.8 - 0.7 are both 0.1, but not as floats: a test of them would find p = 0 from two seeds."""
    assert 0.3 - 0.2 != 0.8 - 0.7
    found = paired({0: 0.3, 1: 0.8}, {0: 0.2, 1: 0.7})
    assert found is not None
    assert found.p is None
    assert not found.proven


@given(st.lists(st.floats(0, 1), max_size=20))
def test_holm_lies_between_nothing_and_bonferroni(values: list[float]):
    """In the order of the p-values; the smallest is Bonferroni's, the largest at least itself."""
    found, count = holm(values), len(values)
    assert len(found) == count
    assert all(
        p <= corrected <= min(1, count * p) or corrected == 1 for p, corrected in zip(values, found, strict=True)
    )
    order = sorted(range(count), key=values.__getitem__)
    assert [found[i] for i in order] == sorted(found)
    assert not count or found[order[0]] == min(1, count * values[order[0]])


def test_holm_by_hand():
    """3 * 0.01 = 0.03; 2 * 0.02 = 0.04; then 0.03 itself is below what came before it: 0.04. Above 1 nothing is."""
    assert holm([0.03, 0.01, 0.02]) == [0.04, 0.03, 0.04]
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_each_measure_is_corrected_for_the_methods_that_were_tested():
    """Two seeds: p of gaps g and h is 1 - 2/pi atan(t), t = |g + h| / |g - h|. Gaps of a are 2 and 4, t = 3, and of b
    1 and 8, t = 9/7; c has equal gaps and d one seed, which are no tests: corrected for two."""
    ends = {"a": (0.52, 0.54), "b": (0.51, 0.58), "c": (0.51, 0.51), "d": (0.6,), "replication": (0.5, 0.5)}
    groups = {name: [made([value], seed=seed) for seed, value in enumerate(values)] for name, values in ends.items()}
    found = compare(groups)
    assert found.tests == 2
    a, b, c, d = (found.row(name).end_difference for name in "abcd")
    p_a, p_b = (1 - 2 / np.pi * np.arctan(t) for t in (3, 9 / 7))
    assert (a.p, a.p_holm) == (pytest.approx(p_a), pytest.approx(2 * p_a))
    assert (b.p, b.p_holm) == (pytest.approx(p_b), pytest.approx(max(p_b, 2 * p_a)))
    assert (c.p_holm, d.p_holm) == (None, None)
    assert found.row("a").area_difference == a


def test_only_seeds_that_both_have_are_paired():
    found = paired({0: 0.5, 1: 0.7, 2: 0.9}, {1: 0.6, 3: 0.1})
    assert found is not None
    assert (found.pairs, found.low, found.high, found.p) == (1, None, None, None)
    assert found.mean == pytest.approx(0.1)
    assert paired({0: 0.5}, {1: 0.5}) is None


def test_equal_differences_have_an_interval_of_no_width():
    found = paired({0: 0.5, 1: 0.75}, {0: 0.25, 1: 0.5})
    assert found is not None
    assert (found.mean, found.low, found.high, found.p) == (0.25, 0.25, 0.25, None)


@given(st.lists(ACCURACY, min_size=2, max_size=9))
def test_the_spread_is_the_sample_deviation(values: list[float]):
    found = spread(values)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.deviation == pytest.approx(np.std(values, ddof=1), abs=1e-9)
    assert spread(values[:1]).deviation is None


def test_a_comparison_by_hand():
    """Ends 0.6 and 0.7 against 0.5 and 0.5: on average 0.15 above. 90 % of the best end, 0.65, is 0.585: the target is
    0.58, which one seed of replication reaches at once and zero padding never."""
    padding = [
        made([value], "aggregation.method=zero_padding", seed=i, path=f"z{i}") for i, value in enumerate([0.5, 0.5])
    ]
    better = [made([value], seed=i, path=f"r{i}") for i, value in enumerate([0.6, 0.7])]
    groups = grouped([*padding, *better])
    found = compare(groups, reference="zero_padding")
    assert (found.target, found.reference) == (0.58, "zero_padding")
    row = found.row("replication")
    assert (row.seeds, row.rounds_to_target, row.bytes_per_round) == ((0, 1), (1, 1), 30)
    assert row.end_difference is not None
    assert row.end_difference.mean == pytest.approx(0.15)
    assert found.row("zero_padding").rounds_to_target == (None, None)
    assert found.row("zero_padding").end_difference is None
    assert compare(groups).reference == "replication"


@pytest.mark.parametrize(
    ("given", "message"),
    [({"reference": "replicaton"}, "did you mean 'replication'"), ({"target": 50}, "accuracy between 0 and 1")],
)
def test_what_is_refused(given: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        compare(grouped([made([0.5])]), **given)
