"""What the decoder reads: the standard library's code without docstrings and comments, and English.

A code document is a piece of a module, headed by the module's name and, for methods, their class, as the prompts of
`stdlib-signatures` are. English is databricks-dolly-15k, and the reference of the Python language that `pydoc` shows
(`pydoc_data.topics`). No docstring is read. A text that shares its words with one, for whatever reason, is left out.
"""

from __future__ import annotations

import ast
import json
import re
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from polyrank.core.errors import DataError
from polyrank.core.seeds import derive
from polyrank.quickstart.stdlib_docs import module_name, parsed
from polyrank.quickstart.stdlib_signatures import pairs

PIECE = 900
"""Characters of a code document that is cut from a longer class or module; whole functions are never cut."""
LONGEST = 6000
"""Characters of a statement that is still code and not a table of data."""
SHARED_WORDS = 6
"""A text that has so many words in a row from the beginning of a completion is left out."""
HELD_OUT = 50
"""One document in so many is held out."""

_SKIPPED = re.compile(r"(^|/)(tests?|idle_test|site-packages|ensurepip|_vendor|__pycache__|encodings|pydoc_data)(/|$)")
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Reading:
    """Documents to train on, and a fiftieth of all to measure with."""

    train: list[str]
    held_out: list[str]


def gather(dolly: Path) -> Reading:
    """Code and English, each document once, split by hash.

    Raises:
        DataError: the file cannot be read as what it should be, or there are no sources.
    """
    library = Path(sysconfig.get_path("stdlib"))
    known = {beginning for pair in pairs() if (beginning := _words(pair.completion)[:SHARED_WORDS])}
    everything = [*code(library), *reference(library), *english(dolly)]
    kept = [text for text in dict.fromkeys(everything) if not shares_words(text, known)]
    held_out = {text for text in kept if derive(0, "decoder", text) % HELD_OUT == 0}
    return Reading([text for text in kept if text not in held_out], [text for text in kept if text in held_out])


def code(library: Path) -> Iterator[str]:
    """The documents of all modules below `library`, but tests and tables of characters."""
    for path in sorted(library.rglob("*.py")):
        relative = path.relative_to(library)
        if _SKIPPED.search(relative.as_posix()):
            continue
        try:
            tree = parsed(path)
        except (SyntaxError, UnicodeDecodeError):  # lib2to3 brings bad files along on purpose
            continue
        yield from pieces(module_name(library, path), tree)


def pieces(module: str, tree: ast.Module) -> Iterator[str]:
    r"""A module's functions, the members of its classes, and what else it does, without docstrings.

    >>> list(pieces("m", ast.parse("import a\n\ndef f(x):\n    'Doc.'\n    return x")))
    ['# m\nimport a', '# m\ndef f(x):\n    return x']
    """
    strip_docstrings(tree)
    loose = [node for node in tree.body if not isinstance(node, _Function | ast.ClassDef)]
    yield from _packed(f"# {module}", _unparsed(loose), "")
    for node in tree.body:
        if isinstance(node, _Function):
            yield from _packed(f"# {module}", _unparsed([node]), "")
        elif isinstance(node, ast.ClassDef):
            yield from _packed(f"# {module}\nclass {node.name}:", _unparsed(node.body), "    ")


def strip_docstrings(tree: ast.AST) -> None:
    """Take out, in place, strings that stand alone, docstrings among them, and assignments to a `__doc__`."""
    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody"):
            block = getattr(node, field, None)
            if isinstance(block, list):
                kept = [statement for statement in block if not _is_documentation(statement)]
                emptied = field == "body" and not kept and not isinstance(node, ast.Module)
                setattr(node, field, [ast.Pass()] if emptied else kept)


def reference(library: Path) -> Iterator[str]:
    """The sections of the language reference that `pydoc` shows, cut at empty lines into documents of some length."""
    for path in sorted((library / "pydoc_data").glob("topics.py")):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Dict):
                for value in node.values:
                    text = ast.literal_eval(value)
                    yield from _joined(re.split(r"\n\s*\n", text.strip()), "\n\n", 2 * PIECE)


def english(dolly: Path) -> Iterator[str]:
    """Instruction, context and response of every record, one below the other.

    Raises:
        DataError: the file cannot be read as JSON lines with these fields.
    """
    try:
        for line in dolly.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            parts = [record[field].strip() for field in ("instruction", "context", "response")]
            yield from _joined([part for part in parts if part], "\n\n", 10**9)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{dolly}: expected JSON lines with instruction, context and response, found {error!r}"
        ) from error


def shares_words(text: str, known: set[tuple[str, ...]]) -> bool:
    """Whether some words of the text in a row are one of the `known` beginnings of `SHARED_WORDS` words."""
    words = _words(text)
    return any(words[i : i + SHARED_WORDS] in known for i in range(len(words) - SHARED_WORDS + 1))


def _is_documentation(node: ast.AST) -> bool:
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    if isinstance(node, ast.Assign):
        names = [getattr(target, "id", getattr(target, "attr", None)) for target in node.targets]
        return "__doc__" in names
    return False


def _unparsed(nodes: Iterable[ast.stmt]) -> list[str]:
    texts = [ast.unparse(ast.fix_missing_locations(node)).strip() for node in nodes]
    return [text for text in texts if len(text) <= LONGEST and text != "pass"]


def _packed(head: str, parts: Iterable[str], indent: str) -> Iterator[str]:
    lines = ("\n".join(indent + line if line else line for line in part.splitlines()) for part in parts)
    for joined in _joined(lines, "\n", PIECE):
        yield f"{head}\n{joined}"


def _joined(parts: Iterable[str], between: str, limit: int) -> Iterator[str]:
    """The parts, joined until the next one would go over the limit."""
    waiting = ""
    for part in parts:
        if waiting and len(waiting) + len(between) + len(part) > limit:
            yield waiting
            waiting = ""
        waiting = f"{waiting}{between}{part}" if waiting else part
    if waiting:
        yield waiting


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.lower()))
