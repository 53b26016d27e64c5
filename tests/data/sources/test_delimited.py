"""Where a quotation mark is text, and where it holds a field together."""

from __future__ import annotations

import logging

import pytest

from polyrank.core.errors import DataError
from polyrank.data.sources.files import read_file


def table(tmp_path, content, *, name="x.csv", **options):
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    return read_file(str(tmp_path / name), **options).columns


def rows(columns):
    return list(zip(*columns.values(), strict=True))


LONE = ["a\tpos", '"good film\tpos', "bad\tneg", 'the plot"\tneg', "b\tneg"]
"""Two marks that belong to two texts; between them three rows, of which a reader that quotes makes one."""


def test_a_line_of_a_tsv_is_a_row(tmp_path):
    content = "\n".join(["text\tlabel", *LONE]) + "\n"
    assert rows(table(tmp_path, content, name="x.tsv")) == [tuple(line.split("\t")) for line in LONE]


def test_no_quoting_in_a_csv_where_that_is_asked_for(tmp_path):
    content = "\n".join(["text,label", *LONE]).replace("\t", ",")
    assert rows(table(tmp_path, content, quoting="none")) == [tuple(line.split("\t")) for line in LONE]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("lines", "first", "last"),
    [
        (["text,label", "a,pos", '"good film,pos', "bad,neg", 'the plot",neg', "b,neg"], 3, 5),
        # a mark after the label comes first: the label of line 3 is of another row
        (["label,text", "pos,a", 'neg,"good film', "neg,bad", 'pos,the plot"', "neg,b"], 3, 5),
        # several columns, one of which is quoted well in the lines that are swallowed or at their ends
        (["id,text,label,user", '1,"a, b",pos,u', '2,"good,pos,u', "3,bad,neg,u", '4,plot",neg,u'], 3, 5),
        (["id,text,label", "0,b,neg", '"1, x","good,pos', 'n,plot",pos'], 3, 4),
        # every row that is left has another label, but each line is as wide as a row
        (["text,label", "a,one", '"good film,two', 'the plot",three'], 3, 4),
        # not every line is a row, since the swallowed part has a text over two lines, yet two have known labels
        (["text,label", "x,pos", "y,neg", '"good,pos', "bad", "and worse,neg", 'plot",neg'], 4, 7),
    ],
)
def test_rows_that_a_stray_mark_joins_are_refused(tmp_path, lines, first, last, end):
    with pytest.raises(DataError, match=rf"x.csv, line {first}: a quotation mark opens .* ends in line {last},"):
        table(tmp_path, end.join(lines) + end)


def test_they_are_read_where_that_is_meant(tmp_path):
    content = 'text,label\na,pos\n"good film,pos\nbad",neg\n'
    assert rows(table(tmp_path, content, quoting="multiline")) == [("a", "pos"), ("good film,pos\nbad", "neg")]


@pytest.mark.parametrize(
    "text",
    [
        "two\nlines",
        "Dear Anna,\nthank you",
        "It was long, but good.\nI would go again, surely.\n\nOK",
        'She said "no",\nand "well, yes"',
        "a list:\n- pos\n- neg",
        "pos\nneg",
    ],
)
@pytest.mark.parametrize("turned", [False, True], ids=["text first", "label first"])
def test_a_text_over_several_lines_is_one_text(tmp_path, text, turned):
    """None of its lines is a row with a known label, but for the one that carries the row's own."""
    quoted = '"' + text.replace('"', '""') + '"'
    each = [("text", "label"), ("x", "pos"), (quoted, "neg"), ("y", "pos")]
    found = table(tmp_path, "\n".join(",".join(reversed(row) if turned else row) for row in each))
    assert list(zip(found["text"], found["label"], strict=True)) == [("x", "pos"), (text, "neg"), ("y", "pos")]


def test_the_label_column_has_its_own_name(tmp_path):
    """Lines 3 and 4 are as wide as rows, line 5 is not: refused only because their stars are known."""
    content = 'review,stars\na,5\n"good,5\nbad,1\nand\nworse",1\nb,1\n'
    with pytest.raises(DataError, match="line 3: a quotation mark"):
        table(tmp_path, content, label="stars")


def test_a_tsv_that_looks_quoted_says_so(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert rows(table(tmp_path, 'text\tlabel\nx\ta\n"a ""b"" c"\tb\n', name="x.tsv"))[1][0] == '"a ""b"" c"'
        assert "x.tsv, line 3: fields look quoted" in caplog.text
        caplog.clear()
        table(tmp_path, '"text"\t"label"\nx\ta\n', name="x.tsv")
        assert "x.tsv, line 1: fields look quoted" in caplog.text
        caplog.clear()
        table(tmp_path, 'text\tlabel\n"good film\ta\n"a title"\tb\nby "" it\ta\n', name="x.tsv")
        assert not caplog.text


def test_blank_lines_are_no_rows(tmp_path):
    assert rows(table(tmp_path, "\n\ntext,label\n\na,b\n\n")) == [("a", "b")]
