from __future__ import annotations

from polyrank.report.clients import labels_figure, rank_groups_figure
from polyrank.report.figure import Figure, Missing, looks
from tests.report import folders


def test_labels_by_client_in_the_order_of_ranks(tmp_path):
    """Ranks 6, 2, 2: client-1 (label 2) and client-2 (label 3) come before client-0 (label 1)."""
    made = labels_figure(folders.run(tmp_path / "a", ranks=(6, 2, 2)), "replication")
    assert isinstance(made, Figure)
    (heatmap,) = made.plot.data
    assert [list(row) for row in heatmap.z] == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    assert list(heatmap.y) == ["sport", "world", "science &amp;<br>technology"]
    assert list(made.plot.layout.xaxis.ticktext) == ["2<br>(2)", "6<br>(1)"]


def test_old_runs_do_not_say_their_labels(tmp_path):
    assert isinstance(labels_figure(folders.run(tmp_path / "a", old=True), "replication"), Missing)


def test_rank_groups_have_a_mean_and_a_spread(tmp_path):
    groups = {"a": [folders.run(tmp_path / "0"), folders.run(tmp_path / "1", seed=1)]}
    groups["a"][1].summary["rank_groups"][0]["accuracy"] = 0.7
    made = rank_groups_figure(groups, looks(groups))
    assert isinstance(made, Figure)
    (dots,) = made.plot.data
    assert list(dots.x) == ["2", "6"]
    assert [round(y, 6) for y in dots.y] == [0.6, 0.5]
    assert [round(off, 6) for off in dots.error_y.array] == [0.141421, 0]


def test_runs_that_are_not_finished_have_no_rank_groups(tmp_path):
    unfinished = {"a": [folders.run(tmp_path / "a", rounds=2, planned=5)]}
    assert isinstance(rank_groups_figure(unfinished, looks(unfinished)), Missing)
    both = {**unfinished, "b": [folders.run(tmp_path / "b")]}
    made = rank_groups_figure(both, looks(both))
    assert isinstance(made, Figure)
    assert "Not shown: a" in made.caption
