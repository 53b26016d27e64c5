from __future__ import annotations

import math

import pytest

from polyrank.report.curves import by_bytes, by_round, curve, figure
from polyrank.report.figure import Figure, Missing, looks
from tests.report import records


def drawn(groups, samples=None, **options) -> Figure | Missing:
    words = {"name": "x", "title": "X", "caption": "What it is.", "absent": "not measured"}
    return figure(groups, looks(groups), samples or by_round("test/accuracy"), **words, **options)


def test_mean_and_deviation_at_each_round():
    """Round 1: .2 and .4, mean .3, deviation sqrt(.02) = .1414; round 2: one seed alone, so there is no deviation."""
    made = curve([records.made([0.2, 0.6]), records.made([0.4], seed=1)], by_round("test/accuracy"))
    assert made.x == (1, 2)
    assert made.mean == pytest.approx((0.3, 0.6))
    assert made.low == (pytest.approx(0.3 - math.sqrt(0.02)), None)
    assert made.high == (pytest.approx(0.3 + math.sqrt(0.02)), None)


def test_ratios_have_a_geometric_mean():
    """1 and 100: sqrt(1 * 100) = 10."""
    runs = [records.made([1.0]), records.made([100.0], seed=1)]
    assert curve(runs, by_round("test/accuracy"), log=True).mean == (pytest.approx(10.0),)


def test_bytes_count_rounds_without_evaluation_and_the_scoring_round():
    """150 for scoring, 30 a round, the first one not evaluated: 210 bytes at round 2."""
    made = curve([records.made([None, 0.5])], by_bytes("test/accuracy"))
    assert made.x == (210 / 2**20,)


def test_one_seed_is_a_plain_line():
    made = drawn({"a": [records.made([0.1, 0.2])]})
    assert isinstance(made, Figure)
    (line,) = made.plot.data
    assert line.mode == "lines+markers"
    assert "band" not in made.caption


def test_several_seeds_are_a_line_and_a_band():
    """Around round 1: mean .2 and deviation 0; round 2: mean .3, deviation sqrt(.02) up on the way there and down."""
    made = drawn({"a": [records.made([0.2, 0.2]), records.made([0.2, 0.4], seed=1)]})
    assert isinstance(made, Figure)
    band, line = made.plot.data
    off = math.sqrt(0.02)
    assert list(band.x) == [1, 2, 2, 1]
    assert list(band.y) == pytest.approx([0.2, 0.3 + off, 0.3 - off, 0.2])
    assert list(line.y) == pytest.approx([0.2, 0.3])
    assert "band: one standard deviation" in made.caption


def test_one_round_is_a_marker_with_its_spread():
    made = drawn({"a": [records.made([0.2]), records.made([0.4], seed=1)]})
    assert isinstance(made, Figure)
    (point,) = made.plot.data
    assert point.mode == "markers"
    assert list(point.error_y.array) == pytest.approx([math.sqrt(0.02)])


def test_groups_without_values_are_named_and_a_figure_without_any_says_why():
    empty = records.made([0.1])
    del empty.lines[0]["test/accuracy"]
    made = drawn({"a": [records.made([0.1])], "b": [empty]})
    assert isinstance(made, Figure)
    assert made.legend == ("a",)
    assert made.caption.endswith("Not shown: b (not measured).")
    assert drawn({"b": [empty]}) == Missing("X", "not measured")


def test_a_value_that_is_not_finite_is_left_out():
    """metrics.jsonl has null for it."""
    run = records.made([0.1, 0.2])
    run.lines[0]["test/loss"] = None
    run.lines[1]["test/loss"] = 1.5
    assert curve([run], by_round("test/loss")).x == (2,)
