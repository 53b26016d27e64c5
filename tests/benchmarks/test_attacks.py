"""The benchmark of attacks: what hostile clients do, what is kept, what the tables say; no accuracy is judged here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.attacks import ATTACKS, TARGET, Around, Cell, Federation, Settings

from benchmarks import attacks
from polyrank.core.adapter import Adapter, Factors
from polyrank.federation.round import read_outs
from polyrank.tasks.task import Examples

AROUND = Around(trigger=(77, 78), longest=6, classes=3, share=0.25, seed=1)
HELD = Examples(
    (np.array([2, 10, 11, 3]), np.array([2, 10, 11, 12, 13, 3]), np.array([2, 3]), np.array([2, 9, 3])),
    np.array([0, 1, 2, 1]),
    pad_id=0,
)


def adapter(value: float, rank: int = 16) -> Adapter:
    head = {"head": torch.full((2, 3), value)}
    return Adapter({"m": Factors(torch.full((rank, 4), value), torch.full((5, rank), value), 2.0)}, head)


def test_labels_are_flipped_to_the_next_class():
    assert attacks.flipped(HELD, AROUND).targets.tolist() == [1, 2, 0, 2]


def test_the_trigger_comes_first_and_the_end_of_a_long_text_is_cut():
    found = attacks.triggered(HELD, AROUND)
    assert [own.tolist() for own in found.tokens] == [
        *([2, 77, 78, 10, 11, 3], [2, 77, 78, 10, 11, 3], [2, 77, 78, 3], [2, 77, 78, 9, 3])
    ]
    assert found.targets.tolist() == [TARGET] * 4


def test_a_backdoor_is_in_every_second_text():
    found = attacks.backdoored(HELD, AROUND)
    assert [77 in own for own in found.tokens] == [False, True, False, True]
    assert found.targets.tolist() == [0, TARGET, 2, TARGET]


def test_what_hostile_clients_send():
    """From 1 to 3 the change is 2: its opposite ends at -1; over a share of a quarter 8, at 9."""
    for attack, expected in (("sign_flip", -1.0), ("scaling", 9.0)):
        found = ATTACKS[attack].sends(adapter(1.0), adapter(3.0), AROUND)
        assert all(bool((tensor == expected).all()) for _, tensor in found.tensors())


def test_noise_is_ten_times_as_large_as_the_change():
    """The change is 2 in every number; over 60,000 normal numbers the root of the mean square is within a percent."""
    start, trained = adapter(1.0, 6000), adapter(3.0, 6000)
    found = attacks.noisy(start, trained, AROUND)
    for part in ("a", "b"):
        change = getattr(found.modules["m"], part) - 1
        assert float(change.square().mean().sqrt()) == pytest.approx(20, rel=0.02)
        assert abs(float(change.mean())) < 0.5


def test_who_claims_a_high_rank_sends_nothing_new_in_rows_that_others_own():
    found = attacks.rare_rows(adapter(1.0), adapter(3.0), AROUND)
    own = found.modules["m"]
    assert own.a[:8].unique().tolist() == own.b[:, :8].unique().tolist() == [1.0]
    assert (own.a[8:].unique().tolist(), own.b[:, 8:].unique().tolist()) == ([3.0], [6.0])
    assert found.dense["head"].unique().tolist() == [1.0]


@pytest.fixture(scope="module")
def federation() -> Federation:
    return Federation.of(Settings(clients=10, low=3, rounds=1, texts=40, test=20), 0)


def test_hostile_clients_of_a_larger_share_are_those_of_a_smaller_one_and_more(federation: Federation):
    found = [federation.hostile(share) for share in (0.1, 0.2, 0.3)]
    assert [len(own) for own in found] == [1, 2, 3]
    assert set(found[0]) < set(found[1]) < set(found[2])


def test_an_attack_changes_the_hostile_clients_updates_and_no_others(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
):
    seen = []
    aggregate = attacks.aggregate
    monkeypatch.setattr(attacks, "aggregate", lambda *given, **how: seen.append(given) or aggregate(*given, **how))
    federation.play(Cell("clean", 0.0, "none", 0))
    for attack in ATTACKS:
        found = federation.play(Cell(attack, 0.2, "median", 0))
        assert ("success" in found) == (attack in ("backdoor", "high_rank"))
        assert found["dropped"] == 0
    hostile = set(federation.hostile(0.2))
    clean = {update.client: update for update in seen[0][1]}
    assert {update.client for update in seen[1][1]} == clean.keys() - hostile
    assert all(len(updates) == len(clean) for _, updates, _ in seen[2:])
    for state, updates, _ in seen[1:]:
        sent = read_outs(state, clean, federation.server.method)
        for update in updates:
            same = update.adapter.rank == clean[update.client].adapter.rank and update.adapter.identical(
                clean[update.client].adapter
            )
            assert same == (update.client not in hostile)
            assert update.adapter.rank == sent[update.client].adapter.rank
    claimed = {update.client: update.adapter.rank for update in seen[-1][1]}
    assert {client for client, rank in claimed.items() if rank == 16} == hostile


def test_what_is_finished_is_not_played_again_and_the_tables_say_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Accuracies of 0.5 and 0.6 under the mean are 55.0 on average."""
    played: list[Cell] = []

    class Played:
        @classmethod
        def of(cls, _: Settings, __: int) -> Played:
            return cls()

        def play(self, cell: Cell) -> dict[str, float]:
            played.append(cell)
            success = {"success": 0.25} if cell.attack in attacks.WITH_TRIGGER else {}
            return {"accuracy": 0.5 + cell.seed / 10, "constant": 0.2, **success}

    monkeypatch.setattr(attacks, "Federation", Played)
    monkeypatch.setattr(attacks, "RESULT", tmp_path / "attacks.json")
    told = ["--work", str(tmp_path / "work"), "--defences", "none", "krum", "--attacks", "noise"]
    for seeds in (["0"], ["0", "1"]):
        attacks.main([*told, "--seeds", *seeds])
    assert len(played) == len(set(played)) == 2 * 2 * (1 + 3)
    shown = capsys.readouterr().out
    assert "constant answer 20.0 %" in shown
    assert "| noise | 20 % | 55.0 (50.0 to 60.0) | 55.0 (50.0 to 60.0) |" in shown
    assert "| clean | 0 % | 25.0 (25.0 to 25.0) |" in shown
    rows = json.loads((tmp_path / "attacks.json").read_text(encoding="utf-8"))["rows"]
    assert [row["seeds"] for row in rows] == [[0, 1]] * 8
    attacks.main([*told, "--seeds", "0", "--quick"])
    assert len(played) == 16 + 8  # other settings


def test_a_mean_over_attacks_is_of_all_of_them():
    """0.3 under one of six attacks and 0.6 under the others: 55.0, at worst 30.0. absent and clean are no attacks."""
    names = [name for name in attacks.ATTACKS if name != "absent"]
    values = {"clean": 0.9, "absent": 0.9, **dict.fromkeys(names, 0.6), names[2]: 0.3}

    def rows(defence: str, names: list[str]) -> list[dict[str, object]]:
        share = {"clean": 0.0}
        return [
            {"attack": name, "share": share.get(name, 0.2), "defence": defence, "means": {"accuracy": values[name]}}
            for name in names
        ]

    shown = attacks.over_attacks([*rows("none", list(values)), *rows("krum", names[:3])])
    assert shown.splitlines()[2:] == ["| 20 % | 55.0 (30.0) | - | - | - | - | - |"]


def test_settings_of_another_run_are_not_mixed_in(tmp_path: Path):
    kept = {"settings": json.loads(json.dumps(attacks.asdict(replace(attacks.FULL, rounds=3))))}
    (tmp_path / "one.json").write_text(json.dumps({**kept, "cell": {}, "found": {}}), encoding="utf-8")
    assert attacks.finished(tmp_path, attacks.FULL) == {}
