"""From the name of a data source to training and test data."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from polyrank.core.errors import ConfigError, DataError
from polyrank.core.seeds import numpy_generator
from polyrank.core.shares import part_of
from polyrank.data.dataset import Split, TextDataset
from polyrank.data.digest import CUT, classes, described
from polyrank.data.sampling import strata, stratified
from polyrank.data.sources.columns import Columns
from polyrank.data.sources.delimited import Quoting
from polyrank.data.sources.files import looks_like_path, read_file
from polyrank.data.sources.formats import Writing
from polyrank.data.sources.hub import HubName, choose, read_hub
from polyrank.data.sources.tables import Table, alike

log = logging.getLogger(__name__)

EMBEDDED = ("stdlib-docs", "stdlib-signatures")
"""Data sets that are made of the standard library's text: to classify, and for models that write."""
MANY_COPIES = 0.1
"""Of the test texts, the share from which on it is said that they were trained on."""
UNNAMED = "label"
"""The column of labels where nobody named one: data that need none may lack it."""


def load(
    train: str,
    test: str | None = None,
    *,
    text: str | Sequence[str] = "text",
    writing: Writing | None = None,
    label: str = "label",
    labels: Sequence[str] | None = None,
    labelled: bool = True,
    order: Sequence[str] = (),
    quoting: Quoting = "auto",
    extra_columns: Sequence[str] = (),
    test_share: float = 0.2,
    seed: int = 0,
    limit_train: int | None = None,
    limit_test: int | None = None,
) -> Split:
    """Training and test data from wherever they are.

    `train` and `test` are each one of

    - ``stdlib-docs``, the embedded data set, with the columns text, label, topic (= label) and module, or
      ``stdlib-signatures``, its brother for models that write, with prompt and completion in the place of text;
    - a file ``.csv``, ``.tsv``, ``.jsonl``, ``.json`` or ``.parquet`` (see `polyrank.data.sources.files`), or a folder
      of ``.txt`` files, with the columns text, folder and file (`polyrank.data.sources.folders`);
    - a data set on the Hub, ``id[:configuration][#split]``; the split of `train` is "train" unless named, that of
      `test` "test" or else "validation";
    - for `test` only, ``#split``: another split of the data set that `train` names.

    Without `test`: the test split of the embedded data set, or the split "test" or else "validation" of the Hub's;
    where there is none, as in a file, the share `test_share` of the training data, drawn by label with `seed` so that
    every label stays in training. The embedded split never changes, because the embedded model has seen its training
    part. Texts are the column `text`, or what `writing` makes of the rows for a model that writes.

    Every text has a label; or, without `labelled`, where the training data have the column `label`, which must be there
    if it was given a name of its own; "" is none. Label names are `labels`; without them they come from the training
    data: in the order of `order` if it holds the same names, else declared classes (`ClassLabel`) in theirs, else
    sorted, numbers as numbers. `quoting` is that of csv and tsv files, as `.delimited` has it. `extra_columns` must be
    in the training data, and are taken from the test data if they are there. Limits draw that many examples by label
    with `seed`, and keep all label names.

    Raises:
        DataError: a source is missing, unreadable, or has rows that cannot be used; `test` has labels that `train` has
            not, or is the training data; there are labels that `labels` has not.
        ConfigError: a share or a limit is out of range, or `labels` are fewer than two or not different.
    """
    fewest = 2 if labelled else 1
    _check(test_share, limit_train, limit_test, labels, fewest)
    columns = Columns(text, label, quoting, writing)
    train_table, test_table = _tables(train, test, columns)
    if test_table is not None and (test_table.where == train_table.where or _same_file(train, test)):
        raise DataError(
            f"training and test data are both {train_table.where}: name other test data, or leave data.test out to "
            "have a part of the training data set aside"
        )
    kinds = label if labelled or label in train_table.columns or label not in ("", UNNAMED) else None
    training = columns.examples(train_table, kinds, extra_columns)
    names = tuple(labels) if labels is not None and kinds else training.label_names(fewest)
    digests = described("training", training)
    if names:
        digests["classes"] = classes(names)  # in the data's order, whatever the head's
    if labels is None and set(order) == set(names):
        names = tuple(order)
    if labels is None and training.declared is None:
        _warn_of_alike(training.where, names)
    train_set = training.encode(names)
    read = {train_table.where: len(train_set)}
    if test_table is None:
        train_set, test_set = _split(train_set, test_share, seed, train)
        digests["test texts"] = CUT
    else:
        present = [column for column in extra_columns if column in test_table.columns]
        testing = columns.examples(test_table, kinds, present)
        test_set = testing.encode(names)
        digests |= described("test", testing)
        if testing.form != training.form:
            log.warning(
                "%s is read as %s, and %s as %s: what is measured is not what is learned; data.format and the names of "
                "columns hold for both",
                *(training.where, training.form, testing.where, testing.form),
            )
        read[test_table.where] = len(test_set)
    _warn_of_copies(test_set.texts, train_set.texts, (test_table or train_table).where, train_table.where)
    return Split(
        train=_limited(train_set, limit_train, seed, "train"),
        test=_limited(test_set, limit_test, seed, "test"),
        digests=digests,
        read=read,
    )


def read_one(
    source: str,
    *,
    text: str | Sequence[str] = "text",
    writing: Writing | None = None,
    label: str = UNNAMED,
    labels: Sequence[str] | None = None,
    quoting: Quoting = "auto",
    extra_columns: Sequence[str] = (),
    limit: int | None = None,
    seed: int = 0,
) -> TextDataset:
    """The rows of one source, such as test data whose training data are elsewhere.

    Labels are read where there is a column of theirs, which must be there if it was given a name of its own.

    Args:
        source: as `load` has it; of an embedded data set its test part, of one on the Hub "test" or "validation".
        text: as `load` has it, and the others too.
        writing: see `text`.
        label: see `text`.
        labels: names of the labels in their order; by default those of this source.
        quoting: see `text`.
        extra_columns: see `text`; those that are there are read.
        limit: draw at most so many.
        seed: of the limit.

    Raises:
        DataError: as `load`.
    """
    columns = Columns(text, label, quoting, writing)
    table = _test_table(source, columns)
    kinds = label if label in table.columns or label not in ("", UNNAMED) else None
    found = columns.examples(table, kinds, [column for column in extra_columns if column in table.columns])
    names = tuple(labels) if labels is not None and kinds else found.label_names(1)
    return _limited(found.encode(names), limit, seed, "test")


def columns_of(train: str, *, quoting: Quoting = "auto") -> tuple[str, ...]:
    """Names of the columns of training data.

    Raises:
        DataError: as `load`.
    """
    if train in EMBEDDED:
        from polyrank.quickstart.stdlib_docs import Document, column_names
        from polyrank.quickstart.stdlib_signatures import Pair

        return column_names(Document if train == EMBEDDED[0] else Pair)
    return tuple(table_of(train, quoting=quoting).columns)


def table_of(train: str, *, quoting: Quoting = "auto", label: str = UNNAMED) -> Table:
    """Training data as they are read, before anything is made of their columns.

    Raises:
        DataError: as `load`.
    """
    if train in EMBEDDED:
        return _embedded(train, 0)
    if looks_like_path(train):
        return read_file(train, quoting=quoting, label=label)
    name = HubName.parse(train)
    return choose(read_hub(name, "the text"), (name.split or "train",), name)


def _check(
    test_share: float, limit_train: int | None, limit_test: int | None, labels: Sequence[str] | None, fewest: int
) -> None:
    if labels is not None and (len(labels) < fewest or len(set(labels)) < len(labels)):
        least = "two different names or more" if fewest > 1 else "different names"
        raise ConfigError(f"data.labels is {list(labels)}; expected {least}, or leave it out")
    if not 0 < test_share < 1:
        raise ConfigError(f"data.test_share is {test_share}; expected a number between 0 and 1, such as 0.2")
    for name, limit in {"data.limit_train": limit_train, "data.limit_test": limit_test}.items():
        if limit is not None and limit < 1:
            raise ConfigError(f"{name} is {limit}; expected 1 or more, or leave it out to use all examples")


def _warn_of_alike(where: str, names: Sequence[str]) -> None:
    """Say so where several classes are most likely one, written in several ways."""
    if groups := alike(names):
        more = f", and {len(groups) - 1} more like that" if len(groups) > 1 else ""
        log.warning(
            "the labels %s of %s look like one and are taken as different classes%s; if they are one, mend the file",
            " and ".join(map(repr, groups[0])),
            where,
            more,
        )


def _warn_of_copies(test: Sequence[str], train: Sequence[str], where: str, other: str) -> None:
    """Say so where a tenth of the test texts or more were trained on."""
    known = set(train)
    copies = sum(text in known for text in test)
    if copies < MANY_COPIES * len(test):
        return
    log.warning(
        "%d of %d test texts of %s are among the training texts%s: the test measures what was learned by heart; remove "
        "copies, or name other test data",
        *(copies, len(test), where, "" if where == other else f" of {other}"),
    )


def _same_file(train: str, test: str | None) -> bool:
    """Whether both are one: under another spelling, by a link, in another case where that makes no difference."""
    ours, theirs = Path(train).expanduser(), Path(test or "").expanduser()
    return ours.exists() and bool(test) and theirs.exists() and ours.samefile(theirs)


def _tables(train: str, test: str | None, columns: Columns) -> tuple[Table, Table | None]:
    """The table of `train`, and that of `test`; None where the test data are to be cut from the training data."""
    if train in EMBEDDED or looks_like_path(train):
        train_table = _embedded(train, 0) if train in EMBEDDED else _file(train, columns)
        if test is None:
            return train_table, _embedded(train, 1) if train in EMBEDDED else None
        if test.startswith("#"):
            raise DataError(
                f"data.test is {test!r}, a split, but data.train is {train!r}, which has no named splits: "
                "leave data.test out, or give a file or a data set on the Hub"
            )
        return train_table, _test_table(test, columns)

    name = HubName.parse(train)
    splits = read_hub(name, columns.shown)
    train_table = choose(splits, (name.split or "train",), name)
    if test is None:
        own = {"test", "validation"} & splits.keys()
        return train_table, choose(splits, ("test", "validation"), name) if own else None
    if test.startswith("#"):
        return train_table, choose(splits, (test[1:],), name)
    return train_table, _test_table(test, columns)


def _test_table(test: str, columns: Columns) -> Table:
    if test in EMBEDDED:
        return _embedded(test, 1)
    if looks_like_path(test):
        return _file(test, columns)
    name = HubName.parse(test)
    return choose(read_hub(name, columns.shown), (name.split,) if name.split else ("test", "validation"), name)


def _file(name: str, columns: Columns) -> Table:
    return read_file(name, quoting=columns.quoting, label=columns.label)


def _embedded(name: str, part: int) -> Table:
    from polyrank.quickstart import stdlib_docs, stdlib_signatures

    split = stdlib_docs.split if name == EMBEDDED[0] else stdlib_signatures.split
    return Table(f"{name}#{('train', 'test')[part]}", stdlib_docs.columns(split()[part]))


def _split(dataset: TextDataset, share: float, seed: int, where: str) -> tuple[TextDataset, TextDataset]:
    size = max(part_of(len(dataset), share), 1)
    test = stratified(strata(dataset), size, numpy_generator(seed, "data", "test split"), keep=1)
    if len(test) == 0:
        rows = "a single row" if len(dataset) == 1 else f"{len(dataset)} rows, one for each label"
        raise DataError(
            f"{where} has {rows}, so no test data can be cut from it: add rows, or name test data with data.test"
        )
    mask = np.ones(len(dataset), dtype=bool)
    mask[test] = False
    return dataset.subset(mask.nonzero()[0]), dataset.subset(test)


def _limited(dataset: TextDataset, limit: int | None, seed: int, purpose: str) -> TextDataset:
    if limit is None or limit >= len(dataset):
        return dataset
    return dataset.subset(stratified(strata(dataset), limit, numpy_generator(seed, "data", "limit", purpose)))
