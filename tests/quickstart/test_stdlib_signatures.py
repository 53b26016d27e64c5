import ast
from collections import Counter
from pathlib import Path

import pytest

from polyrank.core.errors import DataError
from polyrank.quickstart import stdlib_docs, stdlib_signatures
from polyrank.quickstart.stdlib_docs import TOPICS
from polyrank.quickstart.stdlib_signatures import MIN_WORDS, Pair, pairs, split

SOURCE = '''
class Shelf(Base, metaclass=Meta):
    """A dictionary
    on disk.

    Not for two at once.
    """

    @property
    def size(self, *, deep: bool = False) -> int:
        """The number of things."""

    class Lock:
        async def hold(self): "Wait and hold on to it."

def lend(thing, days=7):
    """Give it   away for some days."""
    def inside(): "A function in a function."

def undocumented(): pass
def short(): """Do it."""
def see(): """See Shelf.size for more."""
def shown(): """>>> shown() and so on"""
def blank(): """   """
def same(a=1, b=2, c=3): """a=1, b=2, c=3"""
'''


def library(folder: Path, monkeypatch, **modules: str) -> None:
    """A standard library of these modules."""
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.setattr(stdlib_signatures.sysconfig, "get_path", lambda _: str(folder))


def test_size_is_that_of_a_standard_library():
    """About 7,300 on CPython 3.11, fewer on Debian, which ships tkinter and idlelib apart."""
    assert 5_000 <= len(pairs()) <= 10_000


def test_every_topic_has_pairs_on_both_sides():
    for side, fewest in zip(split(), (80, 15), strict=True):
        counts = Counter(pair.topic for pair in side)
        assert set(counts) == set(TOPICS)
        assert min(counts.values()) >= fewest, counts


def test_a_prompt_is_module_class_and_signature_up_to_the_opening_quotes(tmp_path, monkeypatch):
    library(tmp_path, monkeypatch, shelve=SOURCE)
    found = {pair.completion: pair.prompt.splitlines() for pair in pairs()}
    assert found == {
        "A dictionary on disk.": ["# shelve", "class Shelf(Base, metaclass=Meta):", '    """'],
        "Give it away for some days.": ["# shelve", "def lend(thing, days=7):", '    """'],
        "The number of things.": [
            "# shelve",
            "class Shelf:",
            "    def size(self, *, deep: bool=False) -> int:",
            '        """',
        ],
        "Wait and hold on to it.": ["# shelve", "class Lock:", "    async def hold(self):", '        """'],
        "A function in a function.": ["# shelve", "def inside():", '    """'],
    }
    assert {(pair.topic, pair.module) for pair in pairs()} == {("files and archives", "shelve")}


def test_indentation_is_that_of_the_body():
    """What stands below the last line of a prompt is a docstring for Python, if quotes close it."""
    for pair in pairs()[::50]:
        tree = ast.parse(f'{pair.prompt}text"""')
        assert ast.get_docstring(list(stdlib_docs.statements(tree))[-2]) == "text"


def test_no_prompt_tells_its_answer():
    assert [pair for pair in pairs() if pair.completion in pair.prompt] == []


def test_completions_are_one_line_that_says_something():
    for pair in pairs():
        assert pair.completion == " ".join(pair.completion.split())
        assert len(pair.completion.split()) >= MIN_WORDS


def test_no_pair_occurs_twice():
    assert max(Counter((pair.prompt, pair.completion) for pair in pairs()).values()) == 1


def test_tests_and_vendored_code_are_left_out():
    parts = {part for pair in pairs() for part in pair.module.split(".")}
    assert parts.isdisjoint({"test", "tests", "idle_test", "ensurepip", "pip", "setuptools", "_vendor"})


def test_reading_again_gives_the_same_pairs():
    first = pairs()
    stdlib_signatures._pairs.cache_clear()
    assert pairs() == first


def test_split_is_complete_and_no_held_out_completion_is_trained_on():
    train, test = split()
    assert sorted(map(repr, train + test)) == sorted(map(repr, pairs()))
    trained = {" ".join(pair.completion.lower().split()) for pair in train}
    assert trained.isdisjoint(" ".join(pair.completion.lower().split()) for pair in test)


def test_split_keeps_the_share_of_completions_in_every_topic(tmp_path, monkeypatch):
    """Ten completions, one of them under two signatures: a fifth is two completions, and two or three pairs."""
    text = "".join(f'def f{i}():\n    """Give number {i} back."""\n' for i in range(10))
    library(tmp_path, monkeypatch, queue=text + 'def g():\n    """give NUMBER 3 back."""\n')
    train, test = split()
    assert len({pair.completion.lower() for pair in test}) == 2
    assert len(train) + len(test) == 11
    assert len(split(test_share=0.5)[1]) in (5, 6)


def test_split_depends_on_its_seed_alone():
    assert split(seed=3) == split(seed=3)
    assert split(seed=3)[1] != split(seed=4)[1]


def test_a_pair_keeps_its_side_when_others_are_absent(monkeypatch):
    """Another Python has other modules: without a tenth of the pairs at most the border of a topic moves."""
    held_out = {pair.completion for pair in split()[1]}
    fewer = [pair for i, pair in enumerate(pairs()) if i % 10]
    monkeypatch.setattr(stdlib_signatures, "pairs", lambda: fewer)
    moved = {pair.completion for pair in stdlib_signatures.split()[1]} - held_out
    assert len(moved) < 0.03 * len(held_out) + 2 * len(TOPICS)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.2, float("nan")])
def test_a_share_outside_its_range_is_an_error(share):
    with pytest.raises(DataError, match="stdlib-signatures: test_share"):
        split(test_share=share)


def test_columns_are_as_long_as_the_pairs():
    pair = Pair('# m\ndef f():\n    """', "Do nothing at all.", "GUI", "m")
    assert stdlib_docs.columns([pair]) == {
        "prompt": ['# m\ndef f():\n    """'],
        "completion": ["Do nothing at all."],
        "label": ["GUI"],
        "topic": ["GUI"],
        "module": ["m"],
    }


def test_an_interpreter_without_sources_is_an_error(tmp_path, monkeypatch):
    """A folder of compiled modules alone has nothing to read."""
    (tmp_path / "queue.pyc").write_bytes(b"compiled")
    library(tmp_path, monkeypatch)
    with pytest.raises(DataError, match="stdlib-signatures: no sources"):
        pairs()


def test_sources_are_read_not_imported(tmp_path, monkeypatch):
    library(tmp_path, monkeypatch, turtle='raise SystemExit\ndef go(): "Draw a line."\n')
    assert pairs() == [Pair('# turtle\ndef go():\n    """', "Draw a line.", "GUI", "turtle")]
