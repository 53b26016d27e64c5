import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyrank.core.errors import ConfigError, DataError
from polyrank.core.seeds import numpy_generator
from polyrank.data import TextDataset, hold_out
from polyrank.data.sampling import strata, stratified


def dataset(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    return TextDataset(tuple(f"t{i}" for i in range(len(labels))), labels, tuple("abcdefgh"[: len(counts)]))


def drawn_counts(counts, size, **kwargs):
    labels = np.repeat(np.arange(len(counts)), counts)
    drawn = stratified(labels, size, numpy_generator(0, "test"), **kwargs)
    return np.bincount(labels[drawn], minlength=len(counts)).tolist()


def test_shares_are_kept_and_the_largest_remainder_is_rounded_up():
    """10 of 60 + 25 + 15: exact 6, 2.5, 1.5; floors 6, 2, 1; the first of the two equal remainders gets the tenth."""
    assert drawn_counts([60, 25, 15], 10) == [6, 3, 1]


def test_every_label_is_drawn_once_if_there_is_room_and_keep_is_kept():
    """4 of 97 + 2 + 1: exact 3.88, .08, .04, so the rare ones get 1 each and the rest is 2.

    With keep=1 none of the last is drawn.
    """
    assert drawn_counts([97, 2, 1], 4) == [2, 1, 1]
    assert drawn_counts([97, 2, 1], 4, keep=1) == [3, 1, 0]
    assert drawn_counts([3, 3], 100, keep=1) == [2, 2]


@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    size=st.integers(1, 200),
    keep=st.integers(0, 3),
)
def test_stratified_is_exact_in_size_near_in_shares(counts, size, keep):
    """Without the bounds of `keep` and of one per label, no label is more than one example off its share."""
    labels = np.repeat(np.arange(len(counts)), counts)
    drawn = stratified(labels, size, numpy_generator(size, "test"), keep=keep)
    got = np.bincount(labels[drawn], minlength=len(counts))
    assert len(np.unique(drawn)) == len(drawn) == min(size, sum(max(count - keep, 0) for count in counts))
    assert (got <= np.maximum(np.array(counts) - keep, 0)).all()
    if keep == 0 and size < min(len(counts), sum(counts)):
        assert (np.abs(got - size * np.array(counts) / sum(counts)) < 1).all()


def test_hold_out_is_balanced_and_disjoint_from_the_rest():
    """2 of each of 3 labels are 6; of 10 + 5 + 3 = 18 examples 12 remain, 8 + 3 + 1."""
    data = dataset([10, 5, 3])
    validation, rest = hold_out(data, 2, numpy_generator(0, "test"))
    assert data.subset(validation).label_counts().tolist() == [2, 2, 2]
    assert data.subset(rest).label_counts().tolist() == [8, 3, 1]
    assert sorted([*validation, *rest]) == list(range(18))


def test_hold_out_follows_its_generator():
    data = dataset([50, 50])
    first, again, other = (hold_out(data, 5, numpy_generator(seed, "test"))[0].tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_hold_out_that_cannot_be():
    with pytest.raises(DataError, match="needs 4 training examples of every label, but 'c' has 3"):
        hold_out(dataset([10, 5, 3]), 4, numpy_generator(0))
    with pytest.raises(DataError, match="takes all 6"):
        hold_out(dataset([3, 3]), 3, numpy_generator(0))
    with pytest.raises(ConfigError, match="0 examples per label"):
        hold_out(dataset([3, 3]), 0, numpy_generator(0))


def test_texts_without_labels_are_all_of_one_kind():
    """Three of ten texts, and the other seven; of three, none would be left."""
    plain = TextDataset(tuple("abcdefghij"), None, ())
    validation, rest = hold_out(plain, 3, numpy_generator(0, "test"))
    assert (len(validation), sorted([*validation, *rest])) == (3, list(range(10)))
    assert len(stratified(strata(plain), 4, numpy_generator(0, "test"))) == 4
    with pytest.raises(DataError, match="a validation set of 3 examples takes all 3 training examples"):
        hold_out(plain.subset([0, 1, 2]), 3, numpy_generator(0))
