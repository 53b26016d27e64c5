"""Rows that a task leaves out: the others stay with their clients, and nobody is left with nothing unsaid."""

from __future__ import annotations

from pathlib import Path

import pytest

from polyrank import load_config
from polyrank.core.errors import DataError
from polyrank.federation.server import build
from polyrank.tasks import registry
from tests import models
from tests.tasks.doctored import REGISTRY


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: models.Checkpoints):
    """Forty texts of 3 to 11 words: in turn with four clients, or all of more than eight words with one of two."""
    monkeypatch.setattr(registry, "TASKS", REGISTRY)
    data = models.toy(40)
    assert data.labels is not None
    rows = [
        f"{text},{label},c{i % 4},{'wordy' if len(text.split()) > 8 else 'brief'}"
        for i, (text, label) in enumerate(zip(data.texts, data.labels, strict=True))
    ]
    (tmp_path / "x.csv").write_text("\n".join(["text,label,who,how", *rows]), encoding="utf-8")

    def make(*overrides: str):
        own = ["data.partition=by-column", "data.column=who", f"data.train={tmp_path / 'x.csv'}", "task.name=choosy"]
        fixed = ["training.engine=sequential", "training.precision=float32", "training.attention=eager"]
        plain = [
            f"model.name={checkpoint('bert')}",
            "ranks.policy=fixed",
            "training.workers=1",
            "ranks.levels=[2]",
            "data.test_share=0.1",
        ]
        return load_config(None, [*own, *fixed, *plain, *overrides])

    return make


def test_the_others_stay_with_their_clients(config, caplog: pytest.LogCaptureFixture):
    """Row by row: a client's examples are its texts of at most eight words, in their order."""
    all_of_them = build(config("task.options={most=99}"))
    some = build(config("task.options={most=8}"))
    left = 0
    for client, examples in all_of_them.site.examples.items():
        short = [own.tolist() for own in examples.tokens if len(own) - 2 <= 8]  # two are the tokenizer's
        assert [own.tolist() for own in some.site.examples[client].tokens] == short
        left += len(examples) - len(short)
    assert left > 0
    assert f"{left} of 36 rows of" in caplog.text
    assert "are left out: more than 8 words; the first: row" in caplog.text


def test_nothing_left_is_said_in_one_line(config):
    """Of all clients, and of one of them."""
    with pytest.raises(DataError, match=r"x\.csv: no row is left as an example: more than 1 words"):
        build(config("task.options={most=1}"))
    with pytest.raises(DataError, match=r"1 client\(s\) have no example left, wordy for one: more than 8 words; mend"):
        build(config("data.column=how"))
