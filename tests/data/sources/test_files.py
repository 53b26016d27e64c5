import json

import pyarrow
import pyarrow.parquet
import pytest

from polyrank.core.errors import DataError
from polyrank.data.sources.files import looks_like_path, read_file

TEXTS = ('She said "no", twice', "two\nlines", "NA", "null", "Grüße, 世界 \u2028 x", " tab\there ")
LABELS = ("01", "1", "NA", "None", "ü", "a b")


def write_delimited(path, delimiter):
    def quoted(value):
        return '"' + value.replace('"', '""') + '"'

    lines = [delimiter.join(["text", "label"])]
    lines += [delimiter.join([quoted(text), label]) for text, label in zip(TEXTS, LABELS, strict=True)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")


def write_json_lines(path):
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n", encoding="utf-8")


def write_json_list(path):
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def write_parquet(path):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS, "label": LABELS}), path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("x.csv", lambda path: write_delimited(path, ",")),
        ("x.jsonl", write_json_lines),
        ("x.json", write_json_lines),
        ("list.json", write_json_list),
        ("x.parquet", write_parquet),
        ("X.CSV", lambda path: write_delimited(path, ",")),
        ("semicolons.csv", lambda path: write_delimited(path, ";")),
        ("tabs.csv", lambda path: write_delimited(path, "\t")),
    ],
)
def test_every_format_gives_the_strings_back_as_they_are(tmp_path, name, write):
    """Quotes, line breaks, "NA", "null", "01", accents and U+2028 are text, never guesses."""
    path = tmp_path / name
    write(path)
    table = read_file(str(path))
    assert tuple(table.columns["text"]) == TEXTS
    assert tuple(table.columns["label"]) == LABELS


def test_a_csv_whose_first_line_has_commas_is_separated_by_commas(tmp_path):
    """Semicolons are text there. A first line that never ends, or ends as on old Macs, is no crash."""
    path = tmp_path / "x.csv"
    path.write_text("text,label;of;whom\none; two,a\n", encoding="utf-8")
    assert dict(read_file(str(path)).columns) == {"text": ("one; two",), "label;of;whom": ("a",)}
    path.write_text("text;label\none; two;a\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 2: 3 fields, expected 2"):
        read_file(str(path))
    path.write_text("x;" * 200_000, encoding="utf-8")
    with pytest.raises(DataError, match="twice"):
        read_file(str(path))
    path.write_bytes(b"text;label\rone;a\r")
    assert dict(read_file(str(path)).columns) == {"text": ("one",), "label": ("a",)}


@pytest.mark.parametrize("quoting", ["quotes", "multiline"])
def test_a_quoted_tsv_where_that_is_asked_for(tmp_path, quoting):
    path = tmp_path / "x.tsv"
    write_delimited(path, "\t")
    table = read_file(str(path), quoting=quoting)
    assert tuple(table.columns["text"]) == TEXTS
    assert tuple(table.columns["label"]) == LABELS


def test_a_file_as_spreadsheets_write_it(tmp_path):
    """With a byte order mark, CRLF, and a blank line at the end."""
    path = tmp_path / "x.csv"
    path.write_bytes('\ufefftext,label\r\n"a\r\nb",x\r\nc,y\r\n\r\n'.encode())
    assert read_file(str(path)).columns == {"text": ("a\r\nb", "c"), "label": ("x", "y")}


def test_a_text_longer_than_the_csv_default_of_131072(tmp_path):
    import csv

    path = tmp_path / "x.csv"
    path.write_text("text,label\n" + "w" * 200_000 + ",x\n")
    assert len(read_file(str(path)).columns["text"][0]) == 200_000
    assert csv.field_size_limit() == 131_072


def test_a_key_that_some_json_lines_lack_is_null_there(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a"}\n\n{"text": "b", "label": 1}\n')
    assert read_file(str(path)).columns == {"text": ["a", "b"], "label": [None, 1]}


def test_class_names_in_parquet_written_by_datasets(tmp_path):
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    path = tmp_path / "x.parquet"
    datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features).to_parquet(str(path))
    table = read_file(str(path))
    assert table.declared == {"label": ("neg", "pos")}
    assert table.columns["label"] == [1, 0]


@pytest.mark.parametrize(
    "written",
    [
        b"no json",
        b"[]",
        b'{"info": {"features": null}}',
        b'{"info": {"features": {"label": {"_type": "ClassLabel", "names": null}}}}',
        b'{"info": {"features": {"label": {"_type": "ClassLabel", "names": ["a", "a"]}}}}',
    ],
)
def test_what_another_program_wrote_beside_the_columns_of_a_parquet_file_declares_nothing(tmp_path, written):
    table = pyarrow.table({"text": ["a", "b"], "label": [1, 0]}).replace_schema_metadata({b"huggingface": written})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    assert read_file(str(tmp_path / "x.parquet")).declared == {}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", b"", "x.csv is empty"),
        ("x.txt", b"hello", r"x.txt is a .txt file; expected one of .csv, .tsv"),
        ("x.csv", "text,label\ncafé,a\n".encode("latin-1"), "line 2: byte 0xe9 is not UTF-8"),
        ("x.csv", b"text,label\na,b,c\n", "line 2: 3 fields, expected 2"),
        ("x.csv", b'text,label\n"a,b\nc,d\n', "line 2: the quoted text .* runs to line 3: unexpected end of data"),
        ("x.csv", b'text,label\n"a" b,c\n', "line 2: .*quotation mark"),
        ("x.tsv", b"text\tlabel\na\tb\tc\n", 'line 2: 3 fields, expected 2 .*data.quoting = "quotes"'),
        ("x.csv", b"text,label\na,b\ntext,label\nc,d\n", "line 3: the first line once more"),
        ("x.csv", b"text,label\na,b\n\xef\xbb\xbftext,label\nc,d\n", "line 3: the first line once more"),
        ("x.csv", b"text,label\na,b\n text, label\nc,d\n", "line 3: the first line once more"),
        ("x.csv", b'"text,label\na,b",c\n', "line 1: a quotation mark opens a text that ends in line 2"),
        ("x.csv", b"text,text\na,b\n", "names a column twice"),
        ("x.jsonl", b'{"text": "a"}\n{"text": \n', "line 2: broken json .*one object per line"),
        ("x.jsonl", b'{"text": "a"}\n\n["a"]\n', "record 3: a json list, expected an object"),
        ("x.json", b'[{"text": "a"},\n{"text" "b"}]', "line 2: broken json"),
        ("x.jsonl", b'{"text": "a", "text": "b", "label": "x"}', "line 1: .*the key 'text' occurs twice"),
        ("x.jsonl", b'{"label": "x"}\n{"label": ' + b"9" * 5000 + b"}", "line 2: this json cannot be read"),
        ("x.json", b"[" * 100_000, "line 1: this json cannot be read"),
        ("x.csv", b"\xff\xfea\x00b", "is not UTF-16"),
        ("x.parquet", b"PAR1 no", "not a readable parquet file"),
    ],
)
def test_a_file_that_cannot_be_read_says_where(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_file(str(path))


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(DataError, match=r"no such file: .*gone.csv"):
        read_file(str(tmp_path / "gone.csv"))
    with pytest.raises(DataError, match=r"is a folder without \.txt files; expected a file"):
        read_file(str(tmp_path))


def test_what_is_written_like_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain").write_text("x")
    assert all(map(looks_like_path, ["./x", "../x", "/x", "~/x", "a\\b", "train.csv", "plain"]))
    assert not any(map(looks_like_path, ["ag_news", "fancyzhx/ag_news", "glue:sst2#validation"]))


@pytest.mark.parametrize("mark", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", "text,label\r\nGrüße,ü\r\n"),
        ("x.tsv", "text\tlabel\nGrüße\tü\n"),
        ("x.json", '[{"text": "Grüße", "label": "ü"}]'),
        ("x.jsonl", '{"text": "Grüße", "label": "ü"}'),
    ],
)
def test_a_byte_order_mark_is_read(tmp_path, name, content, mark):
    """Windows editors write it, Excel and PowerShell in UTF-16; the first column is "text" and not "\ufefftext"."""
    (tmp_path / name).write_bytes(content.encode(mark))
    table = read_file(str(tmp_path / name))
    assert {key: list(values) for key, values in table.columns.items()} == {"text": ["Grüße"], "label": ["ü"]}


def test_json_lines_put_together_from_files_with_a_mark(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\n\xef\xbb\xbf{"text": "b"}\n')
    assert read_file(str(tmp_path / "x.jsonl")).columns == {"text": ["a", "b"]}


def test_a_parquet_column_that_is_not_asked_for_need_not_be_readable(tmp_path):
    """The year 300,000 is no date of Python's, and half of a UTF-8 character no string."""
    import pyarrow
    import pyarrow.parquet

    far = pyarrow.array([9_400_000_000_000], pyarrow.timestamp("s"))
    broken = pyarrow.array([b"\xe4"]).cast(pyarrow.binary()).view(pyarrow.string())
    table = pyarrow.table({"text": ["a"], "far": far, "broken": broken})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    found = read_file(str(tmp_path / "x.parquet"))
    assert found.column("text", "data.text") == ["a"]
    for name in ("far", "broken"):
        with pytest.raises(DataError, match=f"x.parquet: the column '{name}' cannot be read"):
            found.column(name, "data.text")
