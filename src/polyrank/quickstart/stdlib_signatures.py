"""The data set `stdlib-signatures`: a signature and the first paragraph of its docstring, for models that write.

Functions, methods and classes of the user's own standard library, by the topics of `stdlib_docs`, read with `ast` and
never imported. A prompt ends where the docstring begins::

    # email.message
    class Message:
        def get_content_type(self):
            \"\"\"

and its completion is `Return the message's content type.` CPython 3.11 has about 7,000 such pairs.
"""

from __future__ import annotations

import ast
import copy
import functools
import inspect
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from polyrank.core.seeds import derive
from polyrank.quickstart import stdlib_docs
from polyrank.quickstart.kept import kept
from polyrank.quickstart.stdlib_docs import check_found, check_share, files, normalised, parsed, statements

MIN_WORDS = 3
"""Shorter docstrings ("Initialize.") say nothing that their signature does not."""

_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Pair:
    """A prompt that ends with an opening docstring quote, the paragraph that belongs there, its topic and module."""

    prompt: str
    completion: str
    topic: str
    module: str


def pairs() -> list[Pair]:
    """All pairs, sorted by topic table, module and place in the file; none occurs twice.

    Raises:
        DataError: the interpreter ships no library sources (a frozen or zipped Python).
    """
    return list(_pairs(Path(sysconfig.get_path("stdlib"))))


def split(test_share: float = 0.2, seed: int = 0) -> tuple[list[Pair], list[Pair]]:
    """Training and test pairs, stratified by topic, both in the order of `pairs`.

    In every topic the `test_share` of completions with the smallest hash of (seed, completion) is held out, with all
    the pairs that have one of them: no test completion is ever trained on, under whatever signature. Two versions of
    Python put a completion that they share on the same side, but for a few at the border.

    Raises:
        DataError: `test_share` is not between 0 and 1, or there are no sources.
    """
    check_share("stdlib-signatures", test_share)
    everything = pairs()
    topics: dict[str, dict[str, None]] = {}
    seen: set[str] = set()
    for pair in everything:
        key = normalised(pair.completion)
        if key not in seen:  # a completion of two topics belongs to the first
            seen.add(key)
            topics.setdefault(pair.topic, {})[key] = None
    held_out: set[str] = set()
    for keys in topics.values():
        ranked = sorted(keys, key=lambda key: derive(seed, "stdlib-docs", key))
        held_out.update(ranked[: round(test_share * len(ranked))])
    train = [pair for pair in everything if normalised(pair.completion) not in held_out]
    test = [pair for pair in everything if normalised(pair.completion) in held_out]
    return train, test


def first_paragraph(docstring: str) -> str:
    r"""The text before the first empty line, on one line.

    >>> first_paragraph("Return a copy\n    of the list.\n\n    The items are shared.")
    'Return a copy of the list.'
    """
    lines: list[str] = []
    for line in inspect.cleandoc(docstring).strip().splitlines():
        if not line.strip():
            break
        lines.append(line)
    return " ".join(" ".join(lines).split())


def prompt(module: str, class_name: str | None, node: _Function | ast.ClassDef) -> str:
    """Module, class and signature as Python would show them, up to the opening quote of the docstring."""
    lines = [f"# {module}"]
    if class_name is not None:
        lines.append(f"class {class_name}:")
    indent = "    " * (len(lines) - 1)
    lines += [f"{indent}{signature(node)}", f'{indent}    """']
    return "\n".join(lines)


def signature(node: _Function | ast.ClassDef) -> str:
    r"""The line that opens the definition, without decorators: `def f(a, b=1):` or `class C(Base):`.

    >>> signature(ast.parse("@cache\ndef f(a, *, b = 1) -> int: return a").body[0])
    'def f(a, *, b=1) -> int:'
    """
    bare = copy.copy(node)
    bare.body, bare.decorator_list = [], []
    return ast.unparse(bare).strip()


@functools.cache
def _pairs(root: Path) -> tuple[Pair, ...]:
    found = list(files(root))
    sources = [path for *_, path in found]
    readers = [__file__, stdlib_docs.__file__]
    return kept("stdlib-signatures", Pair, sources, readers, lambda: _read(root, found))


def _read(root: Path, sources: Sequence[tuple[str, str, Path]]) -> tuple[Pair, ...]:
    found: dict[tuple[str, str], Pair] = {}
    for topic, module, path in sources:
        for text, docstring in _documented(path, module):
            completion = first_paragraph(docstring)
            if completion not in text and _tells_something(completion):
                found.setdefault((text, completion), Pair(text, completion, topic, module))
    check_found("stdlib-signatures", found, root)
    return tuple(found.values())


def _documented(path: Path, module: str) -> Iterator[tuple[str, str]]:
    """Prompt and docstring of every documented function and class, outer ones first."""
    classes: dict[ast.AST, str] = {}
    for node in statements(parsed(path)):
        if isinstance(node, ast.ClassDef):
            classes.update(dict.fromkeys(node.body, node.name))
        if isinstance(node, _Function | ast.ClassDef):
            docstring = ast.get_docstring(node, clean=False)
            if docstring:
                yield prompt(module, classes.get(node), node), docstring


def _tells_something(completion: str) -> bool:
    words = completion.split()
    refers = words[:1] and words[0].lower() == "see" and len(words) < 2 * MIN_WORDS
    return len(words) >= MIN_WORDS and not refers and not completion.startswith(">>>")
