"""What a user did that PolyRank cannot work with.

Every error here is caused by input, not by a fault of ours: the command line prints its message as one line and exits
with code 2. A message says what was found, what was expected, where, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 4000
"""Characters of a message: what it quotes may be somebody else's, and of any length."""


class PolyRankError(Exception):
    """Base of all errors that a user can mend.

    Args:
        message: for people; the middle of a very long one is left out.
    """

    def __init__(self, message: str = "") -> None:
        long = len(message) > LONGEST
        super().__init__(f"{message[: LONGEST // 2]} ... {message[-LONGEST // 3 :]}" if long else message)


class ConfigError(PolyRankError):
    """A configuration value is unknown, missing or out of range."""


class DataError(PolyRankError):
    """A data set cannot be read, split or labelled as asked."""


class LabelError(DataError):
    """Labels are none of the classes.

    Args:
        message: for whoever has the data, with some of the labels.
        known: how many different labels are classes.
        unknown: how many are none.
    """

    def __init__(self, message: str, known: int = 0, unknown: int = 0) -> None:
        super().__init__(message)
        self.known, self.unknown = known, unknown


class ModelError(PolyRankError):
    """A base model cannot be loaded or adapted as asked."""


class AdapterError(PolyRankError):
    """An adapter or update does not have the modules, shapes or values that were expected."""


class CodecError(AdapterError):
    """What came from a file or another process is not the value that it should be."""


class RunFolderError(PolyRankError):
    """A run folder or checkpoint is missing, damaged or of another run."""


class ReportError(PolyRankError):
    """A report or its figures cannot be written."""


class WorkerError(PolyRankError):
    """A process that trains clients ended or failed."""


class SiteError(PolyRankError):
    """A site's daemon cannot be started, cannot be reached, or failed at a task."""


class FlowerError(PolyRankError):
    """Flower's nodes are too few, or a message is not what was asked for."""


class SecureError(PolyRankError):
    """A secure sum was not made, and nothing was revealed: too few clients, or values out of range."""


def named(kind: str, otherwise: type[PolyRankError]) -> type[PolyRankError]:
    """The error of a name, as another process calls it; another one where there is none of that name here."""
    found = globals().get(kind)
    return found if isinstance(found, type) and issubclass(found, PolyRankError) else otherwise


def did_you_mean(found: str, known: Iterable[str]) -> str:
    """A sentence that names the nearest known name, or else all of them.

    >>> did_you_mean("replicaton", ["replication", "fedavg"])
    "did you mean 'replication'?"
    >>> did_you_mean("xyz", ["replication", "fedavg"])
    'known: fedavg, replication'
    """
    names = sorted(known)
    near = difflib.get_close_matches(found, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
