"""Which files a model is loaded from, and what the user is told where that fails."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import is_offline_mode

from polyrank.config import ModelConfig
from polyrank.core.errors import ModelError, PolyRankError
from polyrank.core.hub import reachable
from polyrank.quickstart import backbone_path, decoder_path

log = logging.getLogger(__name__)

EMBEDDED = {"quickstart": backbone_path, "quickstart-decoder": decoder_path}
"""Name in the configuration -> where such a model lies."""
LONGEST = 300
"""Characters of another library's message that are passed on."""


def resolve_name(name: str) -> str:
    """What transformers is asked for: an embedded model's folder, else the name itself.

    Raises:
        ModelError: the name is a local folder without a model in it, or looks like a path and does not exist.
    """
    if name in EMBEDDED:
        return str(EMBEDDED[name]())
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(
                f"{name} is a folder, but no model: it has no config.json; expected a folder as save_pretrained writes"
            )
    elif path.exists() or path.is_absolute() or name.startswith((".", "~")):
        raise ModelError(f"model.name is {name!r}, and there is no such folder; expected a Hub id or a model folder")
    return name


def origin(config: ModelConfig) -> dict[str, Any]:
    """Which files transformers takes; it never runs code that comes with a checkpoint, nor asks whether it may."""
    options: dict[str, Any] = {"trust_remote_code": False}
    if config.revision:
        options["revision"] = config.revision
    if not Path(resolve_name(config.name)).is_dir() and not is_offline_mode() and not _hub_answers():
        options["local_files_only"] = True
    return options


@functools.cache
def _hub_answers() -> bool:
    """Asked once per process: without it, every file of a model would be retried for half a minute."""
    answers = reachable()
    if not answers:
        log.warning("the Hugging Face Hub does not answer; looking for models in the local cache only")
    return answers


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what transformers says to the terminal from the user: new heads and other choices are ours, and known."""
    level, bar = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        transformers.logging.set_verbosity(level)
        if bar:
            transformers.logging.enable_progress_bar()


@contextlib.contextmanager
def explained(name: str, purpose: str = "classification") -> Iterator[None]:
    """Turn what transformers raises into one line."""
    try:
        with quiet():
            yield
    except ModelError as error:
        raise ModelError(f"model {name!r} cannot be loaded for {purpose}: {error}") from None
    except PolyRankError:
        raise
    except Exception as error:  # of files that are somebody else's; tokenizers raises Exception itself
        lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        said = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
        raise ModelError(
            f"model {name!r} cannot be loaded for {purpose}: {said[:LONGEST]} "
            "(expected a Hub id that can be reached or is cached, or a folder as save_pretrained writes)"
        ) from error
