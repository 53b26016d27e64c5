from __future__ import annotations

from benchmarks.secure import RANKS, protocol, settings, tables

from polyrank import config, ranks


def test_the_two_kinds_of_rounds_differ_by_the_masks_alone():
    plain, secure = (config.load(None, settings(which)) for which in (False, True))
    assert secure.secure.enabled
    assert config.override(secure, ["secure.enabled=false"]) == plain
    names = [f"client-{i:02d}" for i in range(len(RANKS))]
    assert tuple(ranks.policy(plain.ranks).start(names, {}, 0).values()) == RANKS


def test_the_protocol_is_timed_and_the_tables_show_what_is_measured():
    row = {"seconds": 1.25, "up": 138_456, "down": 2_000}
    found = {"4/1": protocol(4, 1)}
    assert all(seconds > 0 for seconds in found["4/1"]["opening"].values())
    lines = tables({"rounds": {"deployment": {"plain": row}}, "protocol": found}).splitlines()
    assert lines[2] == "| deployment, plain | 1.2 s | 138 kB | 2 kB |"
    assert lines[-1].startswith("| 4 clients, 4 MB each | ")
