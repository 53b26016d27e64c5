"""What a model's files hold, in a few words that can be kept and compared; only the tokenizer is loaded for it."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from transformers.tokenization_utils_base import (
    ADDED_TOKENS_FILE,
    FULL_TOKENIZER_FILE,
    SPECIAL_TOKENS_MAP_FILE,
    TOKENIZER_CONFIG_FILE,
)
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME
from transformers.utils.hub import cached_file

from polyrank.config import ModelConfig
from polyrank.core.files import read_whole
from polyrank.data.digest import LENGTH
from polyrank.hf.files import explained, origin, resolve_name
from polyrank.hf.load import load_tokenizer

_CONFIGURATION = ("config.json", "modules.json")
_TOKENIZER = (ADDED_TOKENS_FILE, FULL_TOKENIZER_FILE, SPECIAL_TOKENS_MAP_FILE, TOKENIZER_CONFIG_FILE)
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
"""transformers loads an adapter that lies beside a model on top of it."""
_WEIGHTS = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)
"""In the order in which transformers looks for them: the first that is there is loaded."""


TEMPLATE, CONFIGURATION = "chat template", "model's configuration"
"""Name of the digest that only models that write have."""


def model_digests(config: ModelConfig, *, writes: bool = False) -> dict[str, str]:
    """Digests of the weights, the configuration and the vocabulary, by the content of the files that are loaded.

    Where the folder lies plays no part, nor do files that are not loaded. A file is read once per process, unless it
    changes.

    Args:
        config: of the model.
        writes: whether prompts are written with its tokenizer's template, which may lie in a file of its own.

    Raises:
        ModelError: the model or its tokenizer cannot be loaded.
    """
    tokenizer = load_tokenizer(config)
    path = resolve_name(config.name)
    with explained(config.name):
        folder = Path(path)
        if not folder.is_dir():
            folder = Path(cached_file(path, "config.json", **_where(config))).parent
    return {
        "model's weights": _digest(folder, {*_weights(folder), *_ADAPTER}),
        CONFIGURATION: _digest(folder, _CONFIGURATION),
        "vocabulary": _digest(folder, {*_TOKENIZER, *tokenizer.vocab_files_names.values()}),
        **({TEMPLATE: _short(hashlib.sha256(str(tokenizer.chat_template).encode()))} if writes else {}),
    }


def _where(config: ModelConfig) -> dict[str, object]:
    options = origin(config)
    return {key: options[key] for key in ("revision", "local_files_only") if key in options}


def _weights(folder: Path) -> list[str]:
    found = next((name for name in _WEIGHTS if (folder / name).is_file()), None)
    if found is None:  # a form that transformers knows and we do not: all that may hold numbers
        words = {".json", ".md", ".txt", ".py"}
        return [path.name for path in folder.iterdir() if path.is_file() and path.suffix not in words]
    if not found.endswith(".index.json"):
        return [found]
    shards: dict[str, str] = json.loads(read_whole(folder / found))["weight_map"]
    return sorted({found, *shards.values()})


def _digest(folder: Path, names: Iterable[str]) -> str:
    found = hashlib.sha256()
    for name in sorted(names):
        path = folder / name
        if path.is_file():
            about = path.stat()
            of_file = _of_file(path.resolve(), about.st_size, about.st_mtime_ns, about.st_ctime_ns)
            found.update(f"{name} {of_file}\n".encode())
    return _short(found)


def _short(found: hashlib._Hash) -> str:
    return found.hexdigest()[:LENGTH]


@functools.lru_cache(maxsize=256)  # size and times in the key: a file that was changed is read again
def _of_file(path: Path, *_changes: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
