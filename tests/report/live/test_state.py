from __future__ import annotations

from pathlib import Path

from polyrank.report.live.reading import Watched
from polyrank.report.live.state import MOST_CLIENTS, cards, words
from tests.report.folders import write_run


def looked(path: Path) -> Watched:
    one = Watched(path, "a")
    one.look()
    return one


def test_words_of_a_run_from_before_it_begins_to_its_end(tmp_path: Path):
    """Rounds take 1.5 s each: after 4 of 10, 6 are to come, 9 s; 2 of them are over."""
    assert words(looked(tmp_path / "none"), 0.0) == "not begun yet"
    begun = looked(write_run(tmp_path / "begun", rounds=0, planned=3))
    assert words(begun, begun.changed + 3) == "no round yet; last change 3 s ago"
    running = looked(write_run(tmp_path / "running", rounds=4, planned=10))
    assert words(running, running.changed + 2) == "round 4 of 10; about 7 s left; last change 2 s ago"
    assert words(running, running.changed + 240) == (
        "round 4 of 10; last change 4 min 0 s ago: paused or stopped, or busy for longer than its rounds took"
    )
    ended = looked(write_run(tmp_path / "ended", rounds=4))
    assert words(ended, ended.changed + 240) == "ended after 4 rounds"


def test_a_folder_without_run_json_has_begun(tmp_path: Path):
    folder = write_run(tmp_path / "a", rounds=0, planned=3)
    (folder / "run.json").unlink()
    one = looked(folder)
    assert words(one, one.changed + 5) == "begun 5 s ago; no round yet"


def test_a_card_says_who_took_part_at_which_rank_and_who_was_left_out_and_why(tmp_path: Path):
    """Ranks 2, 2, 2 and 6; 1000 bytes of scoring and 5000 of each of 3 rounds, each way: 15.6 KiB."""
    one = looked(write_run(tmp_path / "a", rounds=3, planned=5, dropped={3: {"client-3": "a norm of <b>"}}))
    text = cards([one], one.changed)
    assert "Round 3: 4 of 4 clients, 1 left out" in text
    assert '<th scope="row">client-3</th><td>6</td><td>skewed</td><td>a norm of &lt;b&gt;</td>' in text
    assert text.index("client-3</th>") < text.index("client-0</th>")
    assert "sent up 15.6 KiB, down 15.6 KiB" in text
    assert '<progress max="5" value="3"' in text


def test_of_many_clients_the_first_are_shown(tmp_path: Path):
    one = looked(write_run(tmp_path / "a", rounds=1, ranks=[2] * (MOST_CLIENTS + 7) + [6]))
    text = cards([one], one.changed)
    assert text.count("took part</td>") == MOST_CLIENTS
    assert "and 8 more" in text
