"""ROUGE-L is rouge-score 0.1.2's, to 1e-9: recorded pairs, and random ones where the package is installed."""

from __future__ import annotations

import random

import pytest

from polyrank.tasks.causal_lm.rouge import rouge_l

RECORDED = [
    ("The house is red.", "red is the house", 0.5),
    ("The cat sat on the mat", "the cat on the mat sat", 0.8333333333333334),
    ("Don't panic: it's 42!", "dont panic, it is 42", 0.5454545454545454),
    ("", "red", 0),
    ("red", "", 0),
    ("Größe des Hauses", "Grosse des Hauses", 0.5714285714285715),
    ("ΑΒΓ δεζ", "ΑΒΓ δεζ", 0),
    ("a b c d e f g", "g f e d c b a", 0.14285714285714285),
    ("one two three one two", "two one two three one two three", 0.8333333333333333),
    ("\u212aelvin \u0130stanbul", "kelvin istanbul", 0.4),
    ("x_y-z", "x y z", 1.0),
    ("...", "...", 0),
]
"""Reference, answer, and ``RougeScorer(["rougeL"]).score(reference, answer)["rougeL"].fmeasure``."""


@pytest.mark.parametrize(("reference", "written", "expected"), RECORDED)
def test_recorded(reference: str, written: str, expected: float):
    assert rouge_l(reference, written) == pytest.approx(expected, abs=1e-9)


def test_against_the_package():
    scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge-score is not installed")
    score = scorer.RougeScorer(["rougeL"], use_stemmer=False).score
    draw = random.Random(0)
    words = ("The", "house", "is", "RED,", "it's", "42", "a_b", "é", "-", "\n", "x9")
    for _ in range(300):
        one, other = (" ".join(draw.choices(words, k=draw.randrange(25))) for _ in range(2))
        assert rouge_l(one, other) == pytest.approx(score(one, other)["rougeL"].fmeasure, abs=1e-9)
