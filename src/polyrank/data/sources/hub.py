"""Data sets on the Hugging Face Hub as tables, and what to say when there is no Hub."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from polyrank.core.errors import DataError, did_you_mean
from polyrank.core.hub import reachable
from polyrank.data.sources.tables import Table

logger = logging.getLogger(__name__)

_ID = re.compile(r"(?P<id>[\w.-]+(/[\w.-]+)?)(:(?P<config>[^#]+))?(#(?P<split>.+))?")
_UNREACHABLE = ("LocalEntryNotFoundError", "OfflineModeIsEnabled", "TransportError", "ConnectionError", "TimeoutError")


@dataclass(frozen=True)
class HubName:
    """A data set on the Hub, written ``id[:configuration][#split]``, as in ``glue:sst2#validation``."""

    id: str
    config: str | None
    split: str | None

    @classmethod
    def parse(cls, name: str) -> HubName:
        """Read the written form.

        >>> HubName.parse("glue:sst2#validation")
        HubName(id='glue', config='sst2', split='validation')
        """
        match = _ID.fullmatch(name)
        if match is None:
            raise DataError(
                f"{name!r} is no data source; expected stdlib-docs, a file (csv, tsv, jsonl, parquet), a folder of txt "
                "files, or a data set on the Hub as owner/name, owner/name:configuration or owner/name#split"
            )
        return cls(match["id"], match["config"], match["split"])

    def __str__(self) -> str:
        return self.id + (f":{self.config}" if self.config else "")


def read_hub(name: HubName, columns: str) -> Mapping[str, object]:
    """All splits of a data set, by name, for `choose`.

    `columns`, in words, only serves the message that asks for a local file.

    Raises:
        DataError: the Hub cannot be reached and the data set is not in the local cache, it does not exist, or it
            cannot be loaded. Without a network this takes at most some seconds.
    """
    import datasets

    try:
        with _offline_if_unreachable():
            splits = datasets.load_dataset(name.id, name.config)
    except Exception as error:  # whatever the Hub, the network or the data set's files raise is no fault of ours
        local = (
            f"use a local file instead: csv, tsv, json lines or parquet with the columns {columns}, "
            "`--set data.train=PATH`, or the embedded data set stdlib-docs"
        )
        near = did_you_mean(name.id, ["stdlib-docs"])
        hint = f"; {near}" if near.startswith("did") else ""
        raise DataError(f"{_why(name, error)}{hint} ({local})") from error
    if not isinstance(splits, Mapping):
        raise DataError(f"{name} has no named splits; expected a data set with a train split")
    return splits


def choose(splits: Mapping[str, object], wanted: tuple[str, ...], name: HubName) -> Table:
    """The first of the `wanted` splits that there is.

    Raises:
        DataError: there is none of them; names the splits found.
    """
    for split in wanted:
        if split in splits:
            return _table(f"{name}#{split}", splits[split])
    raise DataError(
        f"{name} has no split {' or '.join(wanted)}; splits found: {', '.join(splits)}: name one, as in "
        f"{name}#{next(iter(splits))}"
    )


def _why(name: HubName, error: BaseException) -> str:
    import datasets

    said = " ".join(str(error).split())[:300]
    if isinstance(error, datasets.exceptions.DatasetNotFoundError):
        return f"no data set {name.id!r} on the Hugging Face Hub, or it is private or gated: {said}"
    if any(kind.__name__ in _UNREACHABLE for cause in _chain(error) for kind in type(cause).__mro__):
        return (
            f"the Hugging Face Hub could not be reached for the data set {name.id!r}, and it is not in the local cache"
        )
    return f"the data set {name} could not be loaded: {type(error).__name__}: {said}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _table(where: str, split: object) -> Table:
    # Columns stay on disk until `Table.column` reads them: others may hold much, and need not be decodable.
    columns = {name: split[name] for name in split.column_names}  # type: ignore[index, attr-defined]  # datasets is untyped
    features = split.features.items()  # type: ignore[attr-defined]  # the same
    return Table(where, columns, {name: tuple(f.names) for name, f in features if type(f).__name__ == "ClassLabel"})


@contextmanager
def _offline_if_unreachable() -> Iterator[None]:
    """Read only the local cache while the Hub does not answer; the retries of `datasets` take half a minute (5.2)."""
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    if not before and not reachable():
        logger.warning("the Hugging Face Hub does not answer; looking in the local cache only")
        datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before
