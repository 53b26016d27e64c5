import numpy as np
import pytest

from polyrank.core.seeds import numpy_generator
from polyrank.data.partitions.deck import Deck


def deal(deck, labels, size, proportions):
    return np.bincount(labels[deck.deal(size, np.array(proportions))], minlength=len(proportions)).tolist()


def test_labels_run_out_in_turn():
    """4 + 2 + 2 examples. Half and half of 4 is 2 + 2 + 0. Label 1 is gone, so half and half of 2 is all label 0. Then
    both are gone and 2 come from label 2; nothing is left.
    """
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    deck = Deck(labels, 3, numpy_generator(0, "test"))
    assert deal(deck, labels, 4, [0.5, 0.5, 0]) == [2, 2, 0]
    assert deal(deck, labels, 2, [0.5, 0.5, 0]) == [2, 0, 0]
    assert deck.remaining.tolist() == [0, 0, 2]
    assert deal(deck, labels, 2, [0.5, 0.5, 0]) == [0, 0, 2]
    with pytest.raises(ValueError, match="1 examples asked for, 0 remain"):
        deck.deal(1, np.array([1.0, 0, 0]))


def test_fractions_are_rounded_without_bias():
    """One example from shares (.9, .1): label 1 comes up in .1 of 2000 deals; standard error .0067, 4 are allowed."""
    labels = np.repeat([0, 1], 2000)
    deck = Deck(labels, 2, numpy_generator(0, "test"))
    ones = sum(deal(deck, labels, 1, [0.9, 0.1])[1] for _ in range(2000))
    assert ones / 2000 == pytest.approx(0.1, abs=0.027)
