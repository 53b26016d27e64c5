"""Which classes the head of a checkpoint was trained for, and its rows in the order of ours.

A head's row has no name of its own: ``id2label`` of the checkpoint's configuration says which class it is, and for a
mean-pooling head of ours a file beside it. Rows follow their names wherever the order is another.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from polyrank.core.errors import ModelError
from polyrank.core.files import read_whole
from polyrank.core.seeds import seeded

HEAD, LABELS = "mean_pool_head.safetensors", "labels.json"
"""The mean-pooling head of a merged model and the names of its classes, beside the encoder."""
_SHOWN = 10
"""Classes that a message names before it counts the others."""


def saved_classes(path: str, settings: Any) -> tuple[str, ...]:  # Any: every architecture has its own class
    """Names of the classes in the order of the checkpoint's head; none where it has no head for classes of texts.

    Args:
        path: of the checkpoint.
        settings: its configuration, as it was saved.

    Raises:
        ModelError: the file of names is damaged.
    """
    if has_mean_pool_head(path):
        return _mean_pool_classes(Path(path))
    if not is_classifier(settings):
        return ()
    return tuple(str(settings.id2label[i]) for i in sorted(settings.id2label))


def is_classifier(settings: Any) -> bool:  # Any: as above
    """Whether a checkpoint was saved as a classifier of texts; another task's head may have the same tensors."""
    names = getattr(settings, "architectures", None) or []
    return not names or any(str(name).endswith("ForSequenceClassification") for name in names)


def rows_for(saved: Sequence[str], labels: Sequence[str]) -> list[int] | None:
    """For each of our labels its row in the saved head; None where the head is not known to be of these classes.

    A head whose classes have the names that transformers makes up fits labels that are numbers from 0: both count.

    >>> rows_for(["pos", "neg"], ["neg", "pos"]), rows_for(["good", "bad"], ["neg", "pos"])
    ([1, 0], None)
    >>> rows_for(["LABEL_0", "LABEL_1"], ["0", "1"])
    [0, 1]
    """
    if list(saved) == [f"LABEL_{label}" for label in labels]:
        return list(range(len(labels)))
    if sorted(saved) != sorted(labels):
        return None
    return [list(saved).index(label) for label in labels]


def new_head_note(name: str, saved: Sequence[str], labels: Sequence[str]) -> str:
    """What a user is told where a trained head is not used."""
    keep = ""
    if set(labels) < set(saved):
        keep = "; to keep it, give data.labels all of its classes"
    elif len(labels) == len(saved):
        keep = "; to keep it, name its classes as the data do: model.config = {id2label = {0 = ..., 1 = ...}}"
    return (
        f"{name} has a head that was trained for {_some(saved)}, and the data have {_some(labels)}: the head starts "
        f"anew{keep}"
    )


def output_parameters(model: nn.Module) -> tuple[str, ...]:
    """Names of the parameters with a row for each class: those that have one more in a model of one class more."""
    config: Any = copy.deepcopy(model.config)  # Any: as above
    config.num_labels = config.num_labels + 1
    with torch.device("meta"):
        wider = type(model)(config)
    shapes = {name: parameter.shape for name, parameter in wider.named_parameters()}
    return tuple(name for name, parameter in model.named_parameters() if parameter.shape != shapes[name])


def take_rows(model: nn.Module, rows: Sequence[int]) -> None:
    """Put the head's rows in another order, in place."""
    if list(rows) == sorted(rows):
        return
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name in output_parameters(model):
            parameters[name].copy_(parameters[name][list(rows)].clone())


def start_anew(model: nn.Module, names: Iterable[str], seed: int) -> None:
    """Draw the modules of some parameters from the seed, as the architecture does it."""
    modules = {name.rpartition(".")[0] for name in names}
    with seeded(seed):
        for module in (model.get_submodule(name) for name in sorted(modules)):
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(torch.zeros_like(parameter)))  # transformers marks those it has set
            init: Any = model._init_weights  # Any: transformers' own
            init(module)


def has_mean_pool_head(path: str) -> bool:
    """Whether a checkpoint is a merged model of ours under a mean-pooling head."""
    return (Path(path) / HEAD).is_file()


def mean_pool_rows(path: str, labels: Sequence[str]) -> dict[str, Tensor] | None:
    """The saved mean-pooling head with its rows in the order of the labels; None where it is of other classes.

    Raises:
        ModelError: its files are damaged.
    """
    rows = rows_for(_mean_pool_classes(Path(path)), labels)
    return None if rows is None else {name: tensor[rows] for name, tensor in load_file(Path(path) / HEAD).items()}


def _mean_pool_classes(folder: Path) -> tuple[str, ...]:
    try:
        names = json.loads(read_whole(folder / LABELS))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{folder / LABELS} cannot be read: {error}; it names the classes of {HEAD}") from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ModelError(f"{folder / LABELS} holds {names!r:.60}; expected the names of the classes of {HEAD}")
    return tuple(names)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
