from __future__ import annotations

import pytest

from polyrank.report.figure import Figure, Missing, looks
from polyrank.report.modules import MOST_ROWS, error_figure, mean_errors
from tests.report import folders


def test_errors_are_averaged_over_rounds_and_what_is_not_finite_is_left_out(tmp_path):
    """0 query: .2 and .6; 1 query has null in each round."""
    run = folders.run(tmp_path / "a", rounds=2)
    run.lines[1]["aggregation/error_by_module"]["encoder.layer.0.query"] = 0.6
    assert mean_errors([run]) == {
        "encoder.layer.0.query": pytest.approx(0.4),
        "encoder.layer.0.value": pytest.approx(0.4),
        "encoder.layer.1.value": pytest.approx(0.1),
    }


def test_a_dot_per_module_and_method(tmp_path):
    groups = {"a": [folders.run(tmp_path / "a")], "fedsa": [folders.run(tmp_path / "b", "fedsa", diagnosed=False)]}
    made = error_figure(groups, looks(groups))
    assert isinstance(made, Figure)
    (dots,) = made.plot.data
    assert list(dots.y) == ["0 query", "0 value", "1 value"]
    assert made.legend == ("a",)
    assert "Not shown: fedsa" in made.caption


def test_more_modules_than_can_be_read_are_averaged_by_their_last_name(tmp_path):
    run = folders.run(tmp_path / "a", rounds=1)
    run.lines[0]["aggregation/error_by_module"] = {
        f"layer.{i}.{name}": error for i in range(MOST_ROWS) for name, error in (("query", 0.1), ("value", 0.3))
    }
    groups = {"a": [run]}
    made = error_figure(groups, looks(groups))
    assert isinstance(made, Figure)
    (dots,) = made.plot.data
    assert dict(zip(dots.y, dots.x, strict=True)) == pytest.approx({"query": 0.1, "value": 0.3})
    assert "means over modules of the same last name" in made.caption


def test_without_diagnostics_there_is_no_figure(tmp_path):
    groups = {"fedsa": [folders.run(tmp_path / "a", "fedsa", diagnosed=False)]}
    assert isinstance(error_figure(groups, looks(groups)), Missing)
