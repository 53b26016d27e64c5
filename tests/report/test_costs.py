from __future__ import annotations

import pytest

from polyrank.report.costs import memory_figure, time_figure
from polyrank.report.figure import Figure, Missing, looks
from tests.report import folders


def test_seconds_of_a_round_are_divided_up_where_they_were_booked(tmp_path):
    """a: 1 s of arithmetic in round 1, 3 s in round 2: 2 s; b was not profiled: its 1.5 s in one piece."""
    profiled, plain = folders.run(tmp_path / "a", rounds=2), folders.run(tmp_path / "b", rounds=2)
    for line, seconds in zip(profiled.lines, (1.0, 3.0), strict=True):
        line["time/arithmetic"], line["time/data"] = seconds, 0.0
    made = time_figure({"a": [profiled], "b": [plain]})
    assert isinstance(made, Figure)
    assert {bar.name: (list(bar.y), list(bar.x)) for bar in made.plot.data} == {
        "arithmetic": (["a"], [2.0]),
        "not divided up": (["b"], [1.5]),
    }
    assert list(made.keys) == ["arithmetic", "not divided up"]


def test_without_profile_there_is_one_piece_and_no_key(tmp_path):
    made = time_figure({"a": [folders.run(tmp_path / "a")]})
    assert isinstance(made, Figure)
    assert not made.keys
    assert "polyrank run --profile" in made.caption


def test_the_highest_memory_of_the_seeds(tmp_path):
    runs = [folders.run(tmp_path / "0"), folders.run(tmp_path / "1", seed=1)]
    runs[1].summary["memory/peak"] = 3 * 2**30
    groups = {"a": runs}
    made = memory_figure(groups, looks(groups))
    assert isinstance(made, Figure)
    (bars,) = made.plot.data
    assert list(bars.x) == pytest.approx([3.0])
    assert list(bars.text) == ["3.0 GiB"]


def test_memory_is_known_at_the_end(tmp_path):
    groups = {"a": [folders.run(tmp_path / "a", rounds=1, planned=3)]}
    assert isinstance(memory_figure(groups, looks(groups)), Missing)
