"""The data set `stdlib-docs`: the docstrings of the user's own standard library, labelled by topic.

It needs no download and has no licence question, because every Python interpreter brings it along. The sources are
read with `ast` and never imported. The topic of a docstring is the topic of its top-level module. Versions of Python
differ by some hundred documents; CPython 3.11 has about 6,350.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sysconfig
import tokenize
import warnings
from collections import deque
from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from polyrank.core.errors import DataError
from polyrank.core.seeds import derive
from polyrank.quickstart.kept import kept

MIN_WORDS = 7
"""Shorter docstrings ("Return the value.") say nothing about their topic."""

TOPIC_MODULES = {
    "GUI": "curses idlelib tkinter turtle turtledemo",
    "network": """
        asynchat asyncore cgi cgitb ftplib http ipaddress nntplib nturl2path selectors socket socketserver ssl
        telnetlib urllib webbrowser wsgiref xmlrpc
        """,
    "email": "base64 email imaplib mailbox mailcap mimetypes poplib quopri smtpd smtplib uu",
    "concurrency": """
        _threading_local asyncio concurrent contextvars multiprocessing queue sched signal subprocess threading
        """,
    "markup and configuration": """
        _markupbase argparse configparser csv getopt html json netrc optparse plistlib tomllib xml
        """,
    "numbers and time": """
        _pydatetime _pydecimal _pylong _strptime calendar colorsys datetime decimal fractions numbers random secrets
        statistics zoneinfo
        """,
    "files and archives": """
        _compression _pyio aifc bz2 chunk compression dbm filecmp fileinput fnmatch genericpath glob gzip imghdr io
        lzma ntpath os pathlib posixpath shelve shutil sndhdr sqlite3 stat sunau tarfile tempfile wave xdrlib zipapp
        zipfile
        """,
    "testing and debugging": """
        bdb cProfile doctest faulthandler linecache logging pdb profile profiling pstats timeit trace traceback
        tracemalloc unittest warnings
        """,
    "language tools": """
        _ast_unparse _collections_abc _py_abc _pyrepl abc annotationlib ast code codeop compileall copy copyreg
        dataclasses dis distutils enum functools imp importlib inspect keyword lib2to3 modulefinder opcode pickle
        pickletools pkgutil py_compile pyclbr pydoc rlcompleter runpy site symtable sysconfig tabnanny token tokenize
        types typing venv weakref zipimport
        """,
}
"""Topic -> top-level modules of CPython 3.11 to 3.14. A name that an interpreter does not have is simply not there."""

TOPICS = tuple(TOPIC_MODULES)

_SKIPPED_FOLDERS = frozenset({"test", "tests", "idle_test", "site-packages", "ensurepip", "_vendor", "__pycache__"})
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Document:
    """One docstring, dedented, its topic and the dotted module it comes from."""

    text: str
    topic: str
    module: str


def documents() -> list[Document]:
    """All documents, sorted by topic table, module and place in the file; no text occurs twice.

    Raises:
        DataError: the interpreter ships no library sources (a frozen or zipped Python).
    """
    return list(_documents(Path(sysconfig.get_path("stdlib"))))


def split(test_share: float = 0.2, seed: int = 0) -> tuple[list[Document], list[Document]]:
    """Training and test documents, stratified by topic, both in the order of `documents`.

    In every topic the `test_share` of documents with the smallest hash of (seed, text) is the test set. So a docstring
    that two versions of Python share falls on the same side in both, but for a few at the border: what the backbone
    was distilled on stays out of the test set. The seed belongs to the data set; the seed of a run does not touch it.

    Raises:
        DataError: `test_share` is not between 0 and 1, or there are no sources.
    """
    check_share("stdlib-docs", test_share)
    everything = documents()
    held_out: set[str] = set()
    for topic in TOPICS:
        texts = [document.text for document in everything if document.topic == topic]
        texts.sort(key=lambda text: derive(seed, "stdlib-docs", normalised(text)))
        held_out.update(texts[: round(test_share * len(texts))])
    train = [document for document in everything if document.text not in held_out]
    test = [document for document in everything if document.text in held_out]
    return train, test


def column_names(kind: type[Any]) -> tuple[str, ...]:  # Any: a dataclass
    """The columns of an embedded data set whose rows are of this class: its fields, and `label`, which is the topic."""
    return (*(field.name for field in fields(kind)), "label")


def columns(rows: Sequence[Any]) -> dict[str, list[str]]:  # Any: of a dataclass with a topic
    """Rows of an embedded data set, at least one, as columns of equal length."""
    found = {name: [getattr(row, name) for row in rows] for name in column_names(type(rows[0]))[:-1]}
    return {**found, "label": found["topic"]}


@functools.cache
def _documents(root: Path) -> tuple[Document, ...]:
    found = list(files(root))
    sources = [path for *_, path in found]
    return kept("stdlib-docs", Document, sources, [__file__], lambda: _read(root, found))


def _read(root: Path, sources: Sequence[tuple[str, str, Path]]) -> tuple[Document, ...]:
    found: dict[str, Document] = {}
    for topic, module, path in sources:
        for text in _docstrings(path):
            key = normalised(text)
            if len(key.split()) >= MIN_WORDS:
                found.setdefault(key, Document(text, topic, module))
    check_found("stdlib-docs", found, root)
    return tuple(found.values())


def check_share(name: str, test_share: float) -> None:
    """Refuse a share of a data set that leaves nothing to train on, or to test.

    Raises:
        DataError: it is not between 0 and 1.
    """
    if not 0 < test_share < 1:
        raise DataError(f"{name}: test_share is {test_share}; it must lie between 0 and 1, for example 0.2")


def check_found(name: str, found: Sized, root: Path) -> None:
    """Refuse a library in which nothing of a data set was found.

    Raises:
        DataError: says where it was looked for.
    """
    if not found:
        raise DataError(
            f"{name}: no sources of the standard library under {root}; expected .py files with docstrings. "
            "This Python is frozen, zipped or stripped: use another interpreter, or a data set of your own"
        )


def files(root: Path) -> Iterator[tuple[str, str, Path]]:
    """Topic, dotted module and path of the library's files under `root`, by topic table, module and file."""
    for topic, modules in TOPIC_MODULES.items():
        for name in sorted(modules.split()):
            yield from ((topic, module_name(root, path), path) for path in _sources(root, name))


def _sources(root: Path, name: str) -> list[Path]:
    """The Python files of a top-level module or package, without tests."""
    module = root / f"{name}.py"
    inside = sorted((root / name).rglob("*.py"))
    kept = [path for path in inside if _SKIPPED_FOLDERS.isdisjoint(path.relative_to(root).parts)]
    return ([module] if module.is_file() else []) + kept


def module_name(root: Path, path: Path) -> str:
    """The dotted name of the module in a file of the library under `root`."""
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def _docstrings(path: Path) -> Iterator[str]:
    for node in statements(parsed(path)):
        if isinstance(node, _Documented):
            text = ast.get_docstring(node, clean=False)
            if text:
                yield inspect.cleandoc(text).strip()


def parsed(path: Path) -> ast.Module:
    """A file of the library, in whatever encoding it says it has."""
    with tokenize.open(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's strings
        return ast.parse(file.read())


def statements(tree: ast.Module) -> Iterator[ast.AST]:
    """Statements in the order of `ast.walk`, which looks into every expression and takes six times as long."""
    todo: deque[ast.AST] = deque([tree])
    while todo:
        node = todo.popleft()
        yield node
        for name in ("body", "cases", "handlers", "orelse", "finalbody"):
            todo.extend(getattr(node, name, ()))


def normalised(text: str) -> str:
    """What two texts are compared by: case and spaces make no difference."""
    return " ".join(text.lower().split())
