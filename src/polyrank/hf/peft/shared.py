"""What the clients of a run share, where a part of the model stays with each: a folder that is no adapter, and says so.

It has no ``adapter_config.json``: PEFT would load it without a complaint, with a B of zeros or an untrained head.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from polyrank.core.files import read_whole

OURS = "polyrank.json"
"""What PEFT has no field for: the labels, and the model section with the head. PEFT ignores this file."""
STAY = "stay_with_clients"
"""Key of ``polyrank.json``."""


def write_shared(folder: Path, tensors: Mapping[str, Tensor], stay: Sequence[str]) -> None:
    """Write ``adapter_model.safetensors`` and ``polyrank.json``.

    Args:
        folder: made where it is missing; what an earlier version left of an adapter in it is deleted.
        tensors: under PEFT's names.
        stay: what is missing, in words.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").unlink(missing_ok=True)
    save_file(dict(tensors), folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / OURS).write_text(json.dumps({STAY: list(stay)}, indent=2) + "\n", encoding="utf-8")


def what_is_missing(folder: Path) -> str | None:
    """Why a folder that `write_shared` wrote is no adapter, and what to do; None for any other folder."""
    try:
        stay = json.loads(read_whole(folder / OURS))[STAY]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return (
        f"{folder} is no adapter: it holds what the clients of a run share, and each kept its own "
        f"{' and '.join(map(str, stay))}; write a client's with polyrank export RUN --client NAME --out DIR"
    )
