import json
import subprocess
import sys

import pytest

from polyrank.core.errors import ConfigError, DataError
from polyrank.data import load
from polyrank.data.sources.formats import Writing


def write(path, labels, start=0):
    rows = [f"text {start + i},{label},user{i % 2}" for i, label in enumerate(labels)]
    path.write_text("\n".join(["text,label,user", *rows]) + "\n")
    return str(path)


def test_two_files(tmp_path):
    train = write(tmp_path / "train.csv", ["b", "a", "a"])
    test = write(tmp_path / "test.csv", ["b"], start=10)
    split = load(train, test, extra_columns=["user"])
    assert split.train.label_names == split.test.label_names == ("a", "b")
    assert split.train.labels.tolist() == [1, 0, 0]
    assert split.train.columns["user"] == ("user0", "user1", "user0")
    assert (split.test.texts, split.test.labels.tolist()) == (("text 10",), [1])


def test_a_test_file_needs_no_client_column(tmp_path):
    train = write(tmp_path / "train.csv", ["b", "a"])
    (tmp_path / "test.jsonl").write_text('{"text": "x", "label": "a"}')
    assert load(train, str(tmp_path / "test.jsonl"), extra_columns=["user"]).test.columns == {}


def test_a_share_is_cut_by_label_and_by_seed(tmp_path):
    """A fifth of 40 a and 10 b is 8 and 2."""
    train = write(tmp_path / "x.csv", ["a"] * 40 + ["b"] * 10)
    first, again, other = (load(train, seed=seed) for seed in (0, 0, 1))
    assert first.test.label_counts().tolist() == [8, 2]
    assert first.train.label_counts().tolist() == [32, 8]
    assert not set(first.train.texts) & set(first.test.texts)
    assert first.test.texts == again.test.texts != other.test.texts


def test_a_share_of_rows_is_rounded_half_up(tmp_path):
    """A tenth of 25 rows is 2.5, so 3."""
    split = load(write(tmp_path / "x.csv", ["a"] * 13 + ["b"] * 12), test_share=0.1)
    assert (len(split.train), len(split.test)) == (22, 3)


def test_a_label_with_one_row_stays_in_training(tmp_path):
    split = load(write(tmp_path / "x.csv", ["a"] * 5 + ["b"]), test_share=0.9)
    assert split.train.label_counts().tolist() == [1, 1]
    assert split.test.label_counts().tolist() == [4, 0]


def test_limits_keep_shares_and_label_names(tmp_path):
    """Of 40 + 10 a fifth, 8 + 2, is for testing and 32 + 8 for training; 10 of these are 8 + 2, 2 of those 1 + 1."""
    train = write(tmp_path / "x.csv", ["a"] * 40 + ["b"] * 10)
    split = load(train, limit_train=10, limit_test=2)
    assert split.train.label_counts().tolist() == [8, 2]
    assert split.test.label_counts().tolist() == [1, 1]
    assert load(train, limit_train=1).train.label_names == ("a", "b")
    assert len(load(train, limit_train=10**6).train) == 40


def test_a_label_that_only_the_test_data_have(tmp_path):
    train, test = write(tmp_path / "a.csv", ["a", "b"]), write(tmp_path / "b.csv", ["a", "c", "c"])
    with pytest.raises(DataError, match=r"2 row.s. of .*b.csv have labels that are none of the classes: 'c'"):
        load(train, test)


def test_what_cannot_be_split(tmp_path):
    one_each = write(tmp_path / "x.csv", ["a", "b"])
    with pytest.raises(DataError, match=r"2 rows, one for each label, so no test data"):
        load(one_each)
    single = tmp_path / "one.jsonl"
    single.write_text('{"prompt": "a", "completion": "b"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"has a single row, so no test data"):
        load(str(single), writing=Writing(), labelled=False)
    with pytest.raises(DataError, match=r"training and test data are both"):
        load(one_each, one_each)
    with pytest.raises(DataError, match=r"'#test', a split, but data.train"):
        load(one_each, "#test")


@pytest.mark.parametrize("spelling", ["./x.csv", "../{folder}/x.csv", "link.csv", "hard.csv", "folder/x.csv"])
def test_the_training_file_under_another_spelling_is_no_test_file(tmp_path, monkeypatch, spelling):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.csv"
    write(path, ["a", "b", "a"])
    (tmp_path / "link.csv").symlink_to(path)
    (tmp_path / "hard.csv").hardlink_to(path)
    (tmp_path / "folder").symlink_to(tmp_path)
    with pytest.raises(DataError, match=r"training and test data are both x\.csv"):
        load("x.csv", spelling.format(folder=tmp_path.name))


def test_test_texts_that_were_trained_on_are_said(tmp_path, caplog):
    train, test = write(tmp_path / "a.csv", ["a", "b"]), write(tmp_path / "b.csv", ["a", "b"])
    load(train, test)
    assert f"2 of 2 test texts of {test} are among the training texts of {train}: the test measures" in caplog.text
    caplog.clear()
    load(train, write(tmp_path / "c.csv", ["a", "b"] * 6, start=1))  # one text of twelve
    assert not caplog.text


def test_copies_within_one_file_are_said(tmp_path, caplog):
    """Tickets that are written by a form: a part that is held out has the same texts."""
    path = tmp_path / "x.csv"
    path.write_text("text,label\n" + "no light,a\nno sound,b\n" * 20, encoding="utf-8")
    load(str(path))
    assert f"8 of 8 test texts of {path} are among the training texts: the test measures" in caplog.text


def test_rows_read_and_rows_of_the_file(tmp_path):
    """Ten rows, of which two are for testing and four kept for training: all texts still know their rows."""
    train = write(tmp_path / "x.csv", ["a", "b"] * 5)
    split = load(train, limit_train=4)
    assert split.read == {train: 10}
    for part in (split.train, split.test):
        assert [f"text {row - 1}" for row in part.rows] == list(part.texts)
        assert part.place(1) == f"{train}, row {part.rows[1]}"
    test = write(tmp_path / "y.csv", ["a", "b"], start=20)
    assert load(train, test).read == {train: 10, test: 2}


def test_quoting_is_that_of_both_files(tmp_path):
    (tmp_path / "a.tsv").write_text('text\tlabel\n"a\tx\nb"\ty\n"c"\tx\n')
    (tmp_path / "b.tsv").write_text('text\tlabel\n"d"\tx\n')
    paths = str(tmp_path / "a.tsv"), str(tmp_path / "b.tsv")
    split = load(*paths)
    assert (split.train.texts, split.test.texts) == (('"a', 'b"', '"c"'), ('"d"',))
    split = load(*paths, quoting="multiline", labels=["x", "y"])
    assert (split.train.texts, split.test.texts) == (("a\tx\nb", "c"), ("d",))


def test_labels_take_an_order_of_the_same_names(tmp_path):
    path = write(tmp_path / "x.csv", ["a", "b", "c"] * 3)
    assert load(path, order=["c", "a", "b"]).train.label_names == ("c", "a", "b")
    assert load(path, order=["c", "a"]).train.label_names == ("a", "b", "c")
    assert load(path, order=["c", "a", "b", "d"]).train.label_names == ("a", "b", "c")
    assert load(path, order=["c", "a", "b"], labels=["b", "c", "a"]).train.label_names == ("b", "c", "a")


def test_a_path_that_does_not_exist_is_not_looked_up_on_the_hub():
    with pytest.raises(DataError, match=r"no such file: data/train.csv"):
        load("data/train.csv")
    with pytest.raises(DataError, match=r"no such file: ./nothing"):
        load("./nothing")


@pytest.mark.parametrize("wrong", [{"test_share": 0.0}, {"test_share": 1.0}, {"limit_train": 0}, {"limit_test": -1}])
def test_shares_and_limits_out_of_range(wrong):
    with pytest.raises(ConfigError, match=f"data.{next(iter(wrong))} is"):
        load("stdlib-docs", **wrong)


def test_the_embedded_data_set():
    split = load("stdlib-docs", extra_columns=["module"], limit_train=200)
    assert len(split.train) == 200
    assert len(split.test) > 100
    assert list(split.train.label_names) == sorted(split.train.label_names)
    assert not set(split.train.texts) & set(split.test.texts)
    assert len(set(split.train.columns["module"])) > 10


def test_importing_is_cheap():
    code = (
        "import sys, polyrank.data; print([m for m in ('torch', 'datasets', 'pyarrow', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_named_classes_where_a_file_lacks_some(tmp_path):
    """A site without examples of a class still counts labels as the others do; an unknown label is refused by name."""
    path = write(tmp_path / "a.csv", ["c", "a", "c", "a", "c"])
    split = load(str(path), labels=["a", "b", "c"])
    assert split.train.label_names == ("a", "b", "c")
    assert set(split.train.labels.tolist()) == {0, 2}
    alone = load(str(write(tmp_path / "b.csv", ["b"] * 5)), labels=["a", "b", "c"])
    assert set(alone.train.labels.tolist()) == {1}
    with pytest.raises(DataError, match=r"3 row.s. of .* are none of the classes: 'c'; classes: 'a', 'b'"):
        load(str(path), labels=["a", "b"])
    for wrong in ([], ["a"], ["a", "c", "a"]):
        with pytest.raises(ConfigError, match=r"data\.labels is .*; expected two different names or more"):
            load(str(path), labels=wrong)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["neg", "pos", " pos", "neg"], "' pos' and 'pos'"),
        (["0", "1", "1.0", "0"], "'1' and '1.0'"),
        (["Neg", "pos", "pos", "neg"], "'Neg' and 'neg'"),
        (["neg", "pos", '"pos"', "neg"], "'\"pos\"' and 'pos'"),
        (["neg", "pos", "\ufeffpos", "neg"], "'pos' and '\\ufeffpos'"),
        (["c++", "c#", "c", "-1"], None),
    ],
)
def test_labels_that_look_like_one_are_named(tmp_path, caplog, labels, said):
    """A file from a spreadsheet has a space behind a label here and there, and each would be a class more."""
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps({"text": f"t{i}", "label": name}) + "\n" for i, name in enumerate(labels * 2)))
    assert len(load(str(path)).train.label_names) == len(set(labels))
    told = [message for message in caplog.messages if "look like one" in message]
    assert len(told) == (said is not None)
    assert said is None or f"the labels {said} of {path} look like one and are taken as different" in told[0]


def test_labels_that_were_named_are_taken_at_their_word(tmp_path, caplog):
    path = tmp_path / "x.csv"
    path.write_text("text,label\n" + "".join(f"x{i},a\ny{i},A\n" for i in range(3)))
    assert load(str(path), labels=["a", "A"]).train.label_names == ("a", "A")
    assert not caplog.messages


def test_texts_need_no_labels_where_nobody_learns_them(tmp_path):
    """A test share is then any share; digests and names say nothing of labels, and limits draw from all."""
    (tmp_path / "x.csv").write_text("\n".join(["text", *(f"text {i}" for i in range(20))]))
    name = str(tmp_path / "x.csv")
    split = load(name, labelled=False, limit_train=5)
    assert (len(split.test), len(split.train), split.train.labels, split.train.label_names) == (4, 5, None, ())
    assert split.digests.keys() == {"training texts", "test texts"}
    with pytest.raises(DataError, match="has no column 'label'"):
        load(name)
    with pytest.raises(DataError, match="has no column 'topic'"):
        load(name, label="topic", labelled=False)


def test_labels_that_nobody_learns_are_read_where_they_are(tmp_path):
    """One kind is enough; ``""`` passes over the column; test data lack none that training data have."""
    name = write(tmp_path / "x.csv", ["a"] * 10)
    split = load(name, labelled=False)
    assert (split.train.label_names, split.train.label_counts().tolist()) == (("a",), [8])
    assert load(name, label="", labelled=False).train.labels is None
    (tmp_path / "y.csv").write_text("text\nx")
    with pytest.raises(DataError, match=r"y\.csv has no column 'label'"):
        load(name, str(tmp_path / "y.csv"), labelled=False)


def test_test_data_of_another_format_are_said(tmp_path, caplog):
    """What they hold is measured all the same."""
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    train.write_text('{"prompt": "a", "completion": "b"}\n', encoding="utf-8")
    test.write_text('{"text": "a b"}\n', encoding="utf-8")
    split = load(str(train), str(test), writing=Writing(), labelled=False)
    assert (split.train.form, split.test.form) == ("prompt", "text")
    assert f"{train} is read as prompt, and {test} as text: what is measured is not what is learned" in caplog.text
