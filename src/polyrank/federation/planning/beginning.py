"""A configuration to begin with: what was seen of a user's data and model, values that fit them, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from polyrank import aggregation, ranks
from polyrank.config import Config, parse
from polyrank.config.commented import Commented
from polyrank.core.errors import ModelError
from polyrank.core.text import size
from polyrank.data import TextDataset
from polyrank.data.sources import table_of
from polyrank.data.sources.roles import Seen, look
from polyrank.federation.loading import end_for, skeleton
from polyrank.federation.overview import overview
from polyrank.federation.planned import check_method, planned
from polyrank.federation.planning.columns import Taken, put_columns, task_of
from polyrank.federation.planning.draft import SHOWN, Draft, quoted, some
from polyrank.federation.planning.fitting import uplink
from polyrank.federation.planning.outlook import Outlook
from polyrank.federation.population import load_data, read
from polyrank.hf.load import load_tokenizer
from polyrank.hf.resident import ResidentModel
from polyrank.tasks import Task, settled
from polyrank.tasks import task as named_task
from polyrank.tasks.registry import AUTO, TASKS

EMBEDDED = {True: "quickstart-decoder", False: "quickstart"}
"""Whether the task is to write -> the model that comes with the package."""
LEVELS, SHARES = (4, 16), (0.75, 0.25)
CLIENTS, EACH, COHORT, ROUNDS = 50, 20, 10, 20
"""The most clients where none are in the data, the least examples of each, clients in a round, and rounds."""
BY_COLUMN = "by-column"
LOOKED = 2000
"""Texts whose tokens are counted; of more data they are taken at even distances."""
UNLIMITED = 10**6
"""Tokens to which nothing is cut but what the model cannot read."""
TOKENS = {False: (16, 512), True: (64, 1024)}
"""Whether the task is to write -> the least and the most of ``data.max_tokens``."""
RATES = {"quickstart": 5e-3, "quickstart-decoder": 3e-3}
OTHER_RATES = {False: 1e-3, True: 3e-4}
"""Learning rates: of the models that come with the package, and of others, by whether they write."""
PERCENTILES = {"median": 50, "90 %": 90, "99 %": 99, "longest": 100}


@dataclass(frozen=True, eq=False)
class AtHand:
    """A model without weights.

    Args:
        resident: the base on the meta device.
        lengths: tokens of the texts that were looked at, uncut but for what the model cannot read.
        cut: how many of them it cannot read whole.
        texts: how many there are in all.
    """

    resident: ResidentModel
    lengths: np.ndarray
    cut: int
    texts: int

    @property
    def widest(self) -> int:
        """The highest rank that all layers can have."""
        return min(min(shape) for shape in self.resident.shapes.values())


def begin(asked: Config, name: str) -> Commented:
    """A file that runs as it stands.

    Args:
        asked: what is said already, ``data.train`` and the like; it stays as it is.
        name: of the file, for comments.

    Raises:
        PolyRankError: the data cannot be read, or no column can be taken for texts; the model is no model; or what
            comes of it would be refused by a run, as that would say.
    """
    asked = _with_data(asked)
    draft = Draft(asked)
    seen = look(table_of(asked.data.train, quoting=asked.data.quoting, label=asked.data.label))
    task_name, writes = task_of(asked, seen)
    what = "writes" if writes else "classifies"
    draft.put("model", "name", EMBEDDED[writes], f"It comes along; or name one on the Hub or in a folder that {what}.")
    draft.put("task", "name", task_name)
    taken = put_columns(draft, asked, seen, writes=writes)
    config = settled(draft.config)
    split, task = load_data(config), named_task(config)
    if split.train.labels is not None and "label" in taken.roles.values():
        counts = split.train.label_counts() + split.test.label_counts()
        each = [f"{quoted(label)} {count}" for label, count in zip(split.train.label_names, counts, strict=True)]
        draft.note("data", "label", f"Rows of each of {len(each)} labels: {some(each)}.")
    model = _at_hand(config, task, split.train, draft)
    _put_tokens(draft, task, model)
    _put_clients(draft, seen, taken, len(split.train))
    _put_ranks(draft, model, name)
    _put_training(draft, task)
    draft.rest()
    _check(draft, model)
    return Commented(_head(asked, seen, taken, name), draft.parts())


def _with_data(asked: Config) -> Config:
    """The same with its data named: by default those that come with the package, for the task that was asked for."""
    values = asked.model_dump(exclude_unset=True)
    own = {} if asked.task.name == AUTO else TASKS.named(asked.task.name).defaults.get("data", {})
    values["data"] = {"train": own.get("train", asked.data.train), **values.get("data", {})}
    return parse(values, "configuration")


def _at_hand(config: Config, task: Task, train: TextDataset, draft: Draft) -> AtHand | None:
    """The model's shapes and the texts' lengths; None where it is on the Hub and cannot be had now, which is noted."""
    try:
        tokenizer = load_tokenizer(config.model)
    except ModelError as error:
        path = Path(config.model.name)
        if path.exists() or path.is_absolute() or config.model.name.startswith((".", "~")):
            raise
        draft.note("model", "name", f"It is not at hand here, so no text was counted in tokens: {error}.")
        return None
    rows = np.linspace(0, len(train) - 1, min(len(train), LOOKED)).round().astype(np.int64)
    looked_at = train.subset(rows)
    resolved = task.resolved(looked_at, tokenizer)
    found = resolved.encode(looked_at, tokenizer, UNLIMITED, end=end_for(config, task))
    lost = sum(map(len, found.left_out.values()))
    resident = skeleton(config, task.outputs(train))
    return AtHand(resident, found.examples.lengths, len(found.cut) + lost, len(train))


def _put_tokens(draft: Draft, task: Task, model: AtHand | None) -> None:
    least, most = TOKENS[task.writes]
    if model is None or not len(model.lengths):
        draft.put("data", "max_tokens", most // 2, "Not known: polyrank data shows how long the texts are.")
        return
    whole = task.writes and draft.config.data.format != "text"  # a row whose answer does not fit is lost
    wanted = int(np.percentile(model.lengths, 100 if whole else 99))
    limit = int(min(max(-(-wanted // 8) * 8, least), most))
    of = "all" if len(model.lengths) == model.texts else f"{len(model.lengths)} of {model.texts}"
    each = ", ".join(f"{title} {int(np.percentile(model.lengths, at))}" for title, at in PERCENTILES.items())
    notes = [f"Tokens of {of} training texts, by the model's tokenizer: {each}."]
    longer = int((model.lengths > limit).sum()) + model.cut
    if longer:
        becomes = "cut, or left out where the answer does not fit" if whole else "cut"
        notes.append(f"{longer} of these are longer than what stands here and are {becomes}.")
    draft.put("data", "max_tokens", limit, *notes)


def _put_clients(draft: Draft, seen: Seen, taken: Taken, rows: int) -> None:
    """Who holds what: the clients of a column, or simulated ones, and how many of them take part."""
    found = None if draft.has("federation", "clients") else seen.client(taken.columns)
    column = draft.asked("data", "column") or (found.name if found else None)
    if (draft.asked("data", "partition") or BY_COLUMN) == BY_COLUMN and column is not None:
        clients = next((one.different for one in seen.columns if one.name == column), 1)
        taken.roles[column] = "client"
        why = f"Each of the {clients} values of this column is a client, with the rows that have it."
        draft.put("data", "partition", BY_COLUMN, why)
        draft.put("data", "column", column)
    else:
        clients = min(max(rows // EACH, 2), CLIENTS, rows)
        labelled = "label" in taken.roles.values() and not taken.writes
        how = "with labels in different shares" if labelled else "at random"
        others = [f"{quoted(one.name)} ({one.different} values)" for one in seen.may_be_clients(taken.columns)]
        draft.put(
            *("data", "partition", "dirichlet" if labelled else "iid"),
            f"Clients are simulated: rows are shared out {how}. Where a column says who holds a row, take partition = "
            f'"{BY_COLUMN}" and column = its name, and leave federation.clients out.'
            + (f" It might be {some(others)}." if others else ""),
        )
        if draft.config.data.partition == "dirichlet":
            draft.put("data", "alpha", 0.5, "Small is skewed: 0.1 gives most clients few labels, 100 all the same.")
        draft.put("federation", "clients", clients)
        clients = draft.config.federation.clients or clients
    share = 1.0 if clients <= COHORT else float(f"{COHORT / clients:.2g}")
    draft.put("federation", "participation", share, "Share of the clients that train in a round.")
    draft.put("federation", "rounds", ROUNDS)
    draft.put("federation", "seed", 0)


def _put_ranks(draft: Draft, model: AtHand | None, name: str) -> None:
    levels = sorted({min(rank, model.widest) for rank in LEVELS}) if model else list(LEVELS)
    draft.put(
        *("ranks", "policy", "fixed"),
        "Ranks in the order of the clients' names, the highest first; by_name = { NAME = RANK } says it of single "
        f"clients. What your clients can send and hold decides: polyrank plan {name} --uplink 5MB --memory 4GB.",
    )
    draft.put("ranks", "levels", levels)
    if len(levels) == len(SHARES) and not (draft.has("ranks", "levels") or draft.has("ranks", "counts")):
        draft.put("ranks", "shares", list(SHARES), "Of the clients, for each of the levels.")
    draft.put(
        "aggregation",
        "method",
        "replication",
        "polyrank advise says which one to take, polyrank compare tries several.",
    )


def _put_training(draft: Draft, task: Task) -> None:
    rate = RATES.get(draft.config.model.name, OTHER_RATES[task.writes])
    why = "The first thing to change: higher where it learns too slowly, lower where the loss jumps or grows."
    draft.put("training", "lr", rate, why)
    draft.put("training", "batch_size", 8 if task.writes else 16)
    draft.put("training", "epochs", 1, "Passes of a client over its rows in a round.")


def _check(draft: Draft, model: AtHand | None) -> None:
    """Refuse what a run would refuse, and note the bytes of a round.

    Raises:
        PolyRankError: as a run would.
    """
    config = settled(draft.config)
    if model is None:
        held = read(config, ranks.policy(config.ranks))
        _note_sizes(draft, {client: len(rows) for client, rows in held.partition.examples.items()})
        return
    found = overview(config)
    _note_sizes(draft, found.examples)
    method, clients = aggregation.configured(config.aggregation), planned(config)
    check_method(config, method, clients.policy, clients.first)
    ahead = Outlook(config, method, clients, model.resident)
    each = [f"{size(uplink(ahead, rank))} at rank {rank}" for rank in sorted(set(clients.first.values()))]
    draft.note("ranks", "levels", f"A client sends {' and '.join(each)} in a round.")


def _note_sizes(draft: Draft, examples: Mapping[str, int]) -> None:
    ordered = sorted(examples.values())
    least, middle, most = ordered[0], ordered[len(ordered) // 2], ordered[-1]
    draft.note(
        *("data", "partition"),
        f"{len(ordered)} clients; training rows of each: least {least}, median {middle}, most {most}.",
    )


def _head(asked: Config, seen: Seen, taken: Taken, name: str) -> tuple[str, ...]:
    shown = [f"  {quoted(one.name)}: {one.about} -> {taken.roles.get(one.name, 'not used')}" for one in seen.columns]
    rows = f"{seen.rows} rows of {quoted(asked.data.train)}"
    more = (f"  and {len(shown) - SHOWN} more",) if len(shown) > SHOWN else ()
    return (
        f"Written by polyrank init {version('polyrank')}. Seen: {rows}, with columns",
        *shown[:SHOWN],
        *more,
        f"What is what was guessed from names and values. polyrank data {name} shows what is learned; change it here "
        "if that is wrong.",
        f"polyrank plan {name} counts bytes and memory, polyrank run {name} --dry-run checks everything, polyrank run "
        f"{name} trains.",
    )
