import ast
from collections import Counter
from pathlib import Path

import pytest

from polyrank.core.errors import DataError
from polyrank.quickstart import stdlib_docs
from polyrank.quickstart.stdlib_docs import MIN_WORDS, TOPIC_MODULES, TOPICS, documents, split


def test_size_is_that_of_a_standard_library():
    """About 6,350 on CPython 3.11, fewer on Debian, which ships tkinter and idlelib apart, and on later versions."""
    assert 4_500 <= len(documents()) <= 8_000


def test_nine_topics_that_all_have_documents():
    counts = Counter(document.topic for document in documents())
    assert len(TOPICS) == 9
    assert set(counts) == set(TOPICS)
    assert min(counts.values()) >= 100, counts


def test_no_module_belongs_to_two_topics():
    modules = [module for names in TOPIC_MODULES.values() for module in names.split()]
    assert [module for module, count in Counter(modules).items() if count > 1] == []


def test_reading_again_gives_the_same_documents():
    first = documents()
    stdlib_docs._documents.cache_clear()
    assert documents() == first


def test_the_quick_walk_finds_the_statements_of_the_slow_one_in_its_order():
    """In every kind of block, and in real files."""
    text = """
class A:
    def one(self):
        if x: (lambda: 1)()
        elif y:
            def inner(): pass
        else: pass
        try: import a
        except* E:
            def handler(): pass
        else: z
        finally:
            class B: pass
        match x:
            case 1:
                async def f():
                    async for i in j: k
                    else: l
                    async with m as n: o
        while p: q
        else: [r for s in t]
"""
    root = Path(ast.__file__).parent
    for source in (text, *((root / name).read_text(encoding="utf-8") for name in ("ast.py", "typing.py"))):
        tree = ast.parse(source)
        slow = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]
        assert [node for node in stdlib_docs.statements(tree) if isinstance(node, ast.stmt)] == slow


def test_no_text_occurs_twice_nor_differs_in_white_space_only():
    texts = [" ".join(document.text.lower().split()) for document in documents()]
    assert len(set(texts)) == len(texts)
    assert all(len(text.split()) >= MIN_WORDS for text in texts)


def test_tests_and_vendored_code_are_left_out():
    parts = {part for document in documents() for part in document.module.split(".")}
    assert parts.isdisjoint({"test", "tests", "idle_test", "ensurepip", "pip", "setuptools", "_vendor"})


def test_known_docstrings_have_their_topic():
    topics = {document.module: document.topic for document in documents()}
    assert topics["email.message"] == "email"
    assert topics["asyncio.locks"] == "concurrency"
    assert topics["tarfile"] == "files and archives"


def test_split_is_disjoint_and_complete():
    train, test = split()
    assert {d.text for d in train}.isdisjoint(d.text for d in test)
    assert sorted(d.text for d in train + test) == sorted(d.text for d in documents())


def test_split_keeps_the_share_in_every_topic():
    test = Counter(document.topic for document in split(test_share=0.25)[1])
    for topic, count in Counter(document.topic for document in documents()).items():
        assert test[topic] == round(0.25 * count)


def test_split_depends_on_its_seed_alone():
    assert split(seed=3) == split(seed=3)
    assert split(seed=3)[1] != split(seed=4)[1]


def test_a_document_keeps_its_side_when_others_are_absent(monkeypatch):
    """Another Python has other modules: without a tenth of the documents at most the border of a topic moves."""
    held_out = {document.text for document in split()[1]}
    fewer = [document for i, document in enumerate(documents()) if i % 10]
    monkeypatch.setattr(stdlib_docs, "documents", lambda: fewer)
    moved = {document.text for document in stdlib_docs.split()[1]} - held_out
    assert len(moved) < 0.03 * len(held_out) + 2 * len(TOPICS)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.2])
def test_a_share_outside_its_range_is_an_error(share):
    with pytest.raises(DataError, match="test_share"):
        split(test_share=share)


def test_an_interpreter_without_sources_is_an_error(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(stdlib_docs.sysconfig, "get_path", lambda _: str(tmp_path / "python311.zip"))
    with pytest.raises(DataError, match=r"no sources.*python311\.zip"):
        documents()


def test_sources_are_read_not_imported(tmp_path: Path, monkeypatch):
    (tmp_path / "turtle.py").write_text('"""Draw with a turtle on a\n    canvas of some width."""\nraise SystemExit\n')
    monkeypatch.setattr(stdlib_docs.sysconfig, "get_path", lambda _: str(tmp_path))
    expected = stdlib_docs.Document("Draw with a turtle on a\ncanvas of some width.", "GUI", "turtle")
    assert documents() == [expected]
