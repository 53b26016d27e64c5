"""The benchmark of choices: what is timed again, what is resumed, what the table says; no time is judged here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.choices import Cell
from benchmarks.versus_flower import Places

from benchmarks import choices

BEST = Cell("bfloat16", "eager", 5, 2, 1)


def seconds(cell: Cell) -> float:
    return 1.0 if cell == BEST else 1.5 if cell.precision == "bfloat16" else 3.0


def test_the_grid_is_timed_in_turn_and_a_choice_is_held_against_its_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    timed: list[Cell] = []
    made = iter([(Cell("bfloat16", "sdpa", 2, 1, 2), 9.0), (Cell("float32", "sdpa", 50, 1, 1), 8.0)])
    monkeypatch.setattr(choices, "timed", lambda _, cell, __: timed.append(cell) or seconds(cell))
    monkeypatch.setattr(choices, "choice", lambda _: next(made))
    monkeypatch.setattr(choices, "RESULT", tmp_path / "choices.json")
    for _ in range(2):  # the second time nothing is missing
        choices.main(["--jobs", "classification", "--work", str(tmp_path / "work"), "--repeats", "2", "--choices", "2"])
    # float32 alone takes more than twice the best, which is known when it would be tried in lanes
    tried = [cell for cell in choices.CELLS if cell.precision == "bfloat16" or (cell.lanes, cell.processes) == (1, 1)]
    assert timed == [*tried, *(cell for cell in choices.CELLS if cell.precision == "bfloat16")]
    (found,) = json.loads((tmp_path / "choices.json").read_text(encoding="utf-8"))["jobs"]
    assert (found["best"], found["per_round"], found["took"]) == (str(BEST), 1.0, 25.0)
    assert [one["times"] for one in found["choices"]] == [(25 * 1.5 + choices.STARTING_SECONDS) / 25, None]
    shown = capsys.readouterr().out
    chosen = "bfloat16 sdpa 2 in 2 processes, float32 sdpa 50 | 1.90, not in the grid | 9, 8"
    assert f"| classification | bfloat16 eager 5 in 2 lanes | 1.00 | 25 | {chosen} |" in shown


def test_a_form_far_behind_is_not_tried_wider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    timed: list[Cell] = []
    monkeypatch.setattr(
        choices, "timed", lambda _, cell, __: timed.append(cell) or (9.0 if cell.precision == "float32" else 1.0)
    )
    monkeypatch.setattr(choices, "choice", lambda _: (BEST, 1.0))
    places = Places(tmp_path, None, None, None, 2, ())
    choices.measure("classification", places, 1, 1)
    assert {cell.width for cell in timed if cell.precision == "float32"} == {1}
    assert {cell.width for cell in timed if cell.precision == "bfloat16"} == set(choices.WIDTHS)


@pytest.mark.parametrize("name", ["J2", "classification", "generative", *choices.DECODERS])
def test_jobs_leave_everything_open(name: str, tmp_path: Path):
    config = choices.job(name, Places(tmp_path, None, None, None, 2, ()))
    assert all(getattr(config.training, key) == "auto" for key in choices.MEASURED)


def test_a_cell_is_what_a_run_is_told(tmp_path: Path):
    config = choices.job("J2", Places(tmp_path, None, None, None, 2, ()))
    training = choices.configuration.override(config, BEST.settings).training
    assert (training.precision, training.attention, training.clients_per_pass) == ("bfloat16", "eager", 5)
    assert (training.engine, training.workers) == ("batched", 1)
