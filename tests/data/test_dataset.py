import numpy as np
import pytest

from polyrank.core.errors import DataError
from polyrank.data import Split, TextDataset


def make():
    return TextDataset(("p", "q", "r"), np.array([1, 0, 1]), ("a", "b", "c"), {"user": ("u", "v", "w")})


def test_subset_keeps_order_columns_and_label_names():
    part = make().subset([2, 0])
    assert (len(part), part.texts, part.labels.tolist()) == (2, ("r", "p"), [1, 1])
    assert part.columns == {"user": ("w", "u")}
    assert part.label_names == ("a", "b", "c")
    assert len(make().subset([])) == 0


def test_label_counts_include_labels_that_do_not_occur():
    assert make().label_counts().tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("labels", "columns", "message"),
    [
        (np.array([0, 1]), {}, "3 texts, but 2 values in 'labels'"),
        (np.array([0, 1, 1]), {"user": ("u",)}, "1 values in 'user'"),
        (np.array([0, 1, 2]), {}, "labels go from 0 to 2, expected 0 to 1"),
        (np.array([0, -1, 1]), {}, "labels go from -1"),
        (np.array([0.0, 1, 1]), {}, "labels are float64, expected int64"),
    ],
)
def test_what_does_not_fit_together_is_refused(labels, columns, message):
    with pytest.raises(DataError, match=message):
        TextDataset(("p", "q", "r"), labels, ("a", "b"), columns)


def test_train_and_test_have_the_same_label_names():
    other = TextDataset(("p",), np.array([0]), ("b", "a"))
    with pytest.raises(DataError, match="expected the same"):
        Split(make(), other)


def test_texts_without_labels_have_all_but_labels():
    plain = TextDataset(("p", "q", "r"), None, (), {"user": ("u", "v", "w")}, "x.csv")
    assert plain.subset([2, 0]).labels is None
    assert plain.subset([2, 0]).column("user") == ("w", "u")
    with pytest.raises(DataError, match=r"the partition x needs a label for every text, and x\.csv is read without"):
        plain.kinds("partition x")
    with pytest.raises(DataError, match="needs a label for every text"):
        plain.label_counts()
    with pytest.raises(DataError, match=r"x\.csv has no column 'score', which the task reads"):
        plain.column("score")
