"""Whether adapters that train rows of an embedding mean the same tokens by them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from polyrank.core.errors import AdapterError
from polyrank.hf.peft.file import AdapterFile
from polyrank.hf.peft.tying import trains_vocabulary

TOKENIZER = "tokenizer.json"


def check_tokens(files: Mapping[str, AdapterFile]) -> None:
    """No number stands for one token here and for another there; folders without a tokenizer are believed.

    Two users who add tokens of their own to one vocabulary give the new rows the same numbers.

    Raises:
        AdapterError: two adapters train rows of an embedding that stand for different tokens.
    """
    owners: dict[int, tuple[str, str]] = {}
    for name, file in files.items():
        if not trains_vocabulary(file):
            continue
        for token, number in _tokens(file.folder).items():
            first, expected = owners.setdefault(number, (name, token))
            if token != expected:
                raise AdapterError(
                    f"{first} and {name} train embeddings of different vocabularies: token {number} is {expected!r} in "
                    f"one, {token!r} in the other ({TOKENIZER}); expected adapters of one tokenizer"
                )


def _tokens(folder: Path) -> dict[str, int]:
    """Token -> number, of the tokenizer that was saved with an adapter; empty where there is none that can be read."""
    from tokenizers import Tokenizer

    path = folder / TOKENIZER
    if not path.is_file():
        return {}
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception:  # tokenizers raises plain Exceptions; it is no part of what is merged
        return {}
    tokens: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    return tokens
