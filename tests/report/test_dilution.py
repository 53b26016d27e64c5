from __future__ import annotations

import pytest

from polyrank.report import dilution
from polyrank.report.figure import Figure, Missing, looks
from tests.report import folders


def test_energy_is_relative_to_what_every_client_owns(tmp_path):
    """Ranks 2 and 6: indices 1 and 2 have energy 2, the others 2 * .5 in round 1 and 2 * .25 in round 2."""
    run = folders.run(tmp_path / "a", rounds=2, kept=0.5)
    assert dilution.lowest_rank(run) == 2
    assert dilution.relative_energy(run) == {1: [1, 1, *[0.5] * 4], 2: [1, 1, *[0.25] * 4]}
    assert dilution.kept_ratio(run) == [(1, 1, 0.5), (2, 2, 0.25)]


def test_an_adapter_of_zeros_has_no_relative_energy(tmp_path):
    run = folders.run(tmp_path / "a", rounds=1)
    run.lines[0]["rows/energy"] = [0.0] * 6
    assert dilution.relative_energy(run) == {}


def test_methods_with_the_same_owners_share_a_panel(tmp_path):
    groups = {
        "a": [folders.run(tmp_path / "a")],
        "b": [folders.run(tmp_path / "b")],
        "c": [folders.run(tmp_path / "c", ranks=(2, 6, 6, 6))],
    }
    made = dilution.owners_figure(groups)
    assert isinstance(made, Figure)
    assert [note.text for note in made.plot.layout.annotations] == ["a, b", "c"]
    first, second = made.plot.data
    assert [row[0] for row in first.z] == [1, 1, 0.25, 0.25, 0.25, 0.25]
    assert [row[0] for row in second.z] == [1, 1, 0.75, 0.75, 0.75, 0.75]


def test_colours_are_logarithms_and_what_is_gone_stays_on_the_scale(tmp_path):
    """Kept .01 per round: 10^-2 after one round, 10^-4 after two, and 10^-6 is drawn as 10^-4."""
    made = dilution.energy_figure({"zero_padding": [folders.run(tmp_path / "a", rounds=3, kept=0.01)]})
    assert isinstance(made, Figure)
    (panel,) = made.plot.data
    assert list(panel.z[5]) == pytest.approx([-2, -4, -4])
    assert made.plot.layout.coloraxis.colorbar.ticktext[0] == "≤10<sup>-4</sup>"


def test_more_panels_than_can_be_read_are_named(tmp_path):
    groups = {f"m{i:02d}": [folders.run(tmp_path / str(i), rounds=1)] for i in range(dilution.MOST_PANELS + 2)}
    made = dilution.energy_figure(groups)
    assert isinstance(made, Figure)
    assert len(made.plot.data) == dilution.MOST_PANELS
    assert "Not shown: m12 and m13 (only 12 panels are drawn)" in made.caption


def test_old_runs_have_no_energies(tmp_path):
    groups = {"a": [folders.run(tmp_path / "a", old=True)]}
    assert isinstance(dilution.energy_figure(groups), Missing)
    assert isinstance(dilution.ratio_figure(groups, looks(groups)), Missing)
    assert isinstance(dilution.owners_figure(groups), Figure)


def test_equal_ranks_cannot_be_diluted(tmp_path):
    groups = {"fedavg": [folders.run(tmp_path / "a", "fedavg", ranks=(4, 4))]}
    made = dilution.ratio_figure(groups, looks(groups))
    assert isinstance(made, Missing)
    assert "one rank" in made.reason
