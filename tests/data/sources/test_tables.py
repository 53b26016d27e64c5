import pytest

from polyrank.core.errors import DataError
from polyrank.data.sources.tables import Table, examples, whole_texts


def read(columns, *, text="text", label="label", extra=(), declared=None):
    table = Table("x.csv", columns, declared or {})
    return examples(table, whole_texts(table, text), label, extra)


def test_whole_numbers_sort_as_numbers_and_01_stays_a_string():
    """As strings 10 comes before 9; "01" is no whole number as one writes it, so those labels sort as strings."""
    assert read({"text": ["a", "b", "c"], "label": ["10", "9", "-1"]}).label_names() == ("-1", "9", "10")
    assert read({"text": ["a", "b", "c"], "label": [10, 9, 2]}).label_names() == ("2", "9", "10")
    assert read({"text": ["a", "b", "c"], "label": ["10", "9", "01"]}).label_names() == ("01", "10", "9")


def test_labels_become_indices_into_the_names():
    dataset = read({"text": ["x", "y", "z"], "label": ["b", "a", "b"]}).encode(("a", "b"))
    assert dataset.labels.tolist() == [1, 0, 1]
    assert dataset.labels.dtype == "int64"


def test_declared_classes_keep_their_order_even_if_one_is_not_seen():
    read_rows = read({"text": ["x", "y"], "label": [2, 0]}, declared={"label": ("world", "sports", "business")})
    assert read_rows.label_names() == ("world", "sports", "business")
    assert read_rows.labels == ("business", "world")


def test_several_text_columns_are_joined_and_empty_ones_left_out():
    columns = {"title": ["T", "", None], "body": ["B", "C", "D"], "label": ["a", "b", "a"]}
    assert read(columns, text=["title", "body"]).texts == ("T B", "C", "D")


def test_extra_columns_are_strings():
    columns = {"text": ["x", "y"], "label": ["a", "b"], "user": [7, "u"]}
    assert read(columns, extra=["user"]).columns == {"user": ("7", "u")}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"texts": ["a"], "label": ["b"]}, "no column 'text'; columns found: 'texts', 'label'; did you mean 'texts'"),
        ({"text": ["a"], "topic": ["b"]}, "no column 'label'; columns found: 'text', 'topic' .set data.label"),
        ({"text": [], "label": []}, "x.csv has columns but no rows"),
        ({"text": ["a", " ", "", None], "label": ["x"] * 4}, "3 row.s. with an empty text in 'text', at row 2, 3, 4 "),
        ({"text": [""] * 9, "label": ["x"] * 9}, "9 row.s. .* at row 1, 2, 3, 4, 5 and 4 more"),
        ({"text": ["a", 5], "label": ["x", "y"]}, r"not a string but 5 \(int\), at row 2"),
        (
            {"text": ["a", "b", "c"], "label": ["x", None, float("nan")]},
            "2 row.s. with no label in 'label', at row 2, 3",
        ),
        ({"text": ["a", "b"], "label": ["x", ""]}, "1 row.s. with no label"),
        (
            {"text": ["a", "b \ud83d"], "label": ["x", "y"]},
            "a text in 'text' that holds half of a surrogate pair, at row 2",
        ),
        ({"text": ["a", "b"], "label": ["x", "\udc00"]}, "a label in 'label' that holds half .* at row 2"),
        ({"text": ["a", "b"], "label": [1, 0.5]}, r"that is 0.5 \(float\), at row 2"),
    ],
)
def test_rows_that_cannot_be_used_are_named(columns, message):
    with pytest.raises(DataError, match=message):
        read(columns)


def test_a_null_in_an_extra_column():
    with pytest.raises(DataError, match=r"no value in 'user', at row 2"):
        read({"text": ["a", "b"], "label": ["x", "y"], "user": ["u", None]}, extra=["user"])


def test_half_of_a_surrogate_pair_in_an_extra_column():
    with pytest.raises(DataError, match=r"a value in 'user' that holds half .* at row 1"):
        read({"text": ["a", "b"], "label": ["x", "y"], "user": ["\ud83d", "v"]}, extra=["user"])


def test_a_column_that_cannot_be_read():
    class Broken:
        def __iter__(self):
            raise ValueError("year 300000 is out of range")

    with pytest.raises(DataError, match=r"x.csv: the column 'text' cannot be read: ValueError: year 300000"):
        read({"text": Broken(), "label": ["x", "y"]})


def test_the_hidden_labels_of_a_test_split_on_the_hub():
    with pytest.raises(DataError, match=r"2 row.s. with no label .*#validation"):
        read({"text": ["a", "b"], "label": [-1, -1]}, declared={"label": ("neg", "pos")})


def test_a_class_index_outside_the_declared_ones():
    with pytest.raises(DataError, match=r"outside the 2 declared classes in 'label', at row 1"):
        read({"text": ["a", "b"], "label": [2, 0]}, declared={"label": ("neg", "pos")})


def test_one_label_only():
    with pytest.raises(DataError, match=r"only the label 'x' in all 2 rows"):
        read({"text": ["a", "b"], "label": ["x", "x"]}).label_names()


def test_labels_that_training_does_not_have_are_named_and_counted():
    """Rows 2 and 3 of 3 are of c and d, which are not in (a, b)."""
    with pytest.raises(DataError, match=r"2 row.s. of x.csv .*'c', 'd'; classes: 'a', 'b'"):
        read({"text": ["1", "2", "3"], "label": ["a", "d", "c"]}).encode(("a", "b"))
