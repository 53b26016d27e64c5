import ast
import json
import sysconfig
from pathlib import Path

import pytest
from tools.reading import SHARED_WORDS, _words, code, english, gather, pieces, reference, shares_words

from polyrank.core.errors import DataError
from polyrank.quickstart.stdlib_signatures import pairs
from tools import reading

SOURCE = '''
"""Module's docstring."""
# a comment
import os
f.__doc__ = "Assigned."

class A(B):
    """Class's docstring."""
    x = 1
    "Attribute's docstring."
    def only(self):
        """Only a docstring."""
    async def more(self):
        "More."
        if x:
            "A string that stands alone."
        return "kept"
'''


@pytest.fixture(scope="module")
def library_code():
    """Three packages of it; all takes ten seconds."""
    library = Path(sysconfig.get_path("stdlib"))
    return [text for package in ("asyncio", "email", "unittest") for text in code(library / package)]


def dolly(folder: Path, *responses: str) -> Path:
    lines = [{"instruction": "Ask?", "context": "", "response": response} for response in responses]
    (folder / "dolly.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "dolly.jsonl"


def test_docstrings_and_comments_go_and_code_stays():
    assert list(pieces("m", ast.parse(SOURCE))) == [
        "# m\nimport os",
        "# m\nclass A:\n"
        "    x = 1\n"
        "    def only(self):\n        pass\n"
        "    async def more(self):\n        if x:\n            pass\n        return 'kept'",
    ]


def test_long_classes_are_cut_between_members_and_tables_are_left_out():
    members = "".join(f"    def f{i}(self):\n        return '{'x' * 400}'\n" for i in range(4))
    table = f"TABLE = '{'y' * reading.LONGEST}'\n"
    found = list(pieces("m", ast.parse(f"{table}class A:\n{members}")))
    assert len(found) == 2
    assert all(piece.startswith("# m\nclass A:\n    def f") for piece in found)


def test_no_docstring_of_the_library_is_read(library_code):
    """A document parses, and has no docstring; what begins as a docstring does is left out of what is trained on."""
    for text in library_code[::20]:
        tree = ast.parse(text)
        documented = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)]
        assert not any(map(ast.get_docstring, [tree, *documented]))


def test_few_documents_share_words_with_a_docstring(library_code):
    known = {words[:SHARED_WORDS] for pair in pairs() if (words := _words(pair.completion))}
    assert sum(shares_words(text, known) for text in library_code) < 0.005 * len(library_code)


def test_the_language_reference_is_read_where_there_is_one(tmp_path):
    (tmp_path / "pydoc_data").mkdir()
    assert list(reference(tmp_path)) == []
    (tmp_path / "pydoc_data/topics.py").write_text("topics = {'if': 'The if statement.\\n\\nIt branches.'}\n")
    assert list(reference(tmp_path)) == ["The if statement.\n\nIt branches."]


def test_shared_words_are_found_in_a_row_wherever_they_stand():
    known = {_words("Return the name of this file.")}
    assert shares_words("x = 1 # return THE name, of this file or that", known)
    assert not shares_words("return the name of that file", known)


def test_gather_splits_by_hash_and_leaves_out_what_repeats_a_docstring(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "code", lambda _: iter(["# m\nimport a"]))
    leak = max((pair.completion for pair in pairs()), key=len)
    found = gather(dolly(tmp_path, leak, *(f"Answer number {i}." for i in range(300))))
    everything = [*found.train, *found.held_out]
    assert f"Ask?\n\n{leak}" not in everything
    assert {f"Ask?\n\nAnswer number {i}." for i in range(300)} <= set(everything)
    assert len(set(everything)) == len(everything)
    assert found == gather(tmp_path / "dolly.jsonl")


def test_a_file_that_is_not_dolly_is_an_error(tmp_path):
    (tmp_path / "other.jsonl").write_text('{"text": "x"}\n')
    for name in ("other.jsonl", "missing.jsonl"):
        with pytest.raises(DataError, match=rf"{name}: expected JSON lines"):
            list(english(tmp_path / name))
