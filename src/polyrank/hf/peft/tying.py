"""Layers that share their weights with an embedding, and whose LoRA follows the embedding's (``ensure_weight_tying``).

PEFT gives such a layer the embedding's factors transposed, A for B, in one piece of memory, and saves both. Whoever
changes one must change the other, and write the setting again.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from polyrank.core.adapter import Factors
from polyrank.core.errors import AdapterError
from polyrank.hf.peft.file import AdapterFile
from polyrank.hf.peft.names import of_vocabulary


def ties(file: AdapterFile) -> bool:
    """Whether the adapter ties something: it asks for it, and trains an embedding or a head over the vocabulary."""
    return bool(file.settings.get("ensure_weight_tying")) and trains_vocabulary(file)


def trains_vocabulary(file: AdapterFile) -> bool:
    """Whether the adapter changes anything that may be tied: by LoRA or whole."""
    embeds = any(layer.kind == "embedding" or of_vocabulary(name) for name, layer in file.layers.items())
    return embeds or any(of_vocabulary(name) for name in file.dense)


def tied_layers(file: AdapterFile) -> dict[str, str]:
    """Linear layer -> the embedding whose factors it has, transposed.

    Raises:
        AdapterError: a layer looks tied and has other values or another scale, so that PEFT would load one over the
            other.
    """
    found: dict[str, str] = {}
    if not ties(file):
        return found
    for embedding, tied in file.layers.items():
        if tied.kind != "embedding":
            continue
        for name, layer in file.layers.items():
            if layer.kind != "linear" or (layer.a, layer.b) != (tied.b[::-1], tied.a[::-1]):
                continue
            same = _equal(transposed(file.factors(embedding)), file.factors(name))
            if same and layer.scale == tied.scale:
                found[name] = embedding
            elif same or of_vocabulary(name):
                raise AdapterError(
                    f"{file.folder}: ensure_weight_tying ties {name} to {embedding}, but their "
                    f"{'scales' if same else 'factors'} differ; expected the same for both, as PEFT saves them"
                )
    return found


def transposed(factors: Factors) -> Factors:
    """The factors of the transposed update."""
    return Factors(factors.b.T.contiguous(), factors.a.T.contiguous(), factors.scale)


def _equal(left: Factors, right: Factors) -> bool:
    return torch.equal(left.a, right.a) and torch.equal(left.b, right.b)


def check_tying(files: Mapping[str, AdapterFile]) -> dict[str, str]:
    """Linear layer -> embedding, for adapters that agree on it.

    Raises:
        AdapterError: one adapter ties what another trains on its own.
    """
    pairs = {name: tied_layers(file) for name, file in files.items()}
    concerned = {name: ties(file) for name, file in files.items() if trains_vocabulary(file)}
    together: dict[str, str] = {}
    for each in pairs.values():
        together |= each
    for name, file in files.items():
        other = next((each for each, tied in concerned.items() if tied != concerned.get(name, tied)), None)
        parted = next(
            (
                layer
                for layer, embedding in together.items()
                if (layer in file.layers or embedding in file.layers) and pairs[name].get(layer) != embedding
            ),
            None,
        )
        if other is not None or parted is not None:
            owner = other or next(each for each, found in pairs.items() if parted in found)
            raise AdapterError(
                f"{name} and {owner} do not tie the same layers to their embeddings (ensure_weight_tying); expected "
                "adapters that all do, or none"
            )
    return together
