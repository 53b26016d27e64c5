"""What a node is asked once and says of itself: who it is, how many examples it has, and no value of its data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from flwr.app import ConfigRecord, RecordDict
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from polyrank.core.errors import FlowerError
from polyrank.core.strict import Count
from polyrank.federation.participant import Facts
from polyrank.flower.records import shown
from polyrank.tasks import Task

RECORD = "facts"
MOST_EXAMPLES = 10_000_000
"""Examples that a node may say it has, unless a setting says otherwise; an assumption of ours."""

Name = Annotated[str, Field(min_length=1, max_length=200)]
Positive = Annotated[int, Field(ge=1, le=2**63 - 1)]


class Counts(BaseModel):
    """One client's examples.

    Args:
        examples: that it trains on.
        labels: how many of them have each of the labels that the server named, in its order; nothing where the task
            needs none and the site's are others, or it has none.
        left_out: reason -> how many of its rows are no examples.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    examples: Positive
    labels: tuple[Count, ...]
    left_out: dict[Name, Count] = {}


class About(BaseModel):
    """A node, and the clients on it.

    Args:
        client: the name of its one client, or None: it serves those at certain places of the federation's own.
        place: of its first client, in the order of the names.
        step: from there to its next one, and so on; None: it has one client.
        rank: that it declares for each, or None.
        shapes: ``(d_out, d_in)`` of the modules with LoRA, as a check that both sides hold the same base.
        base: digests of its base's files, as a check that both sides hold the same values; none where nobody knows.
        clients: what each of them has.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    client: Name | None
    place: Count | None
    step: Positive | None
    rank: Positive | None
    shapes: dict[str, tuple[Positive, Positive]]
    base: dict[Name, Name] = {}
    clients: tuple[Counts, ...]


@dataclass(frozen=True)
class Place:
    """Which of the federation's clients a node serves: that at ``first`` in the order of the names, and every ``step``.

    Args:
        first: of its clients.
        step: None: there is no other.
    """

    first: int
    step: int | None = None

    def of(self, names: Sequence[str]) -> Sequence[str]:
        """Its clients; none where there are fewer than places.

        Raises:
            FlowerError: it is no place, or none of a node's own among so many nodes.
        """
        if self.first < 0 or (self.step is not None and not self.first < self.step):
            raise FlowerError(f"partition-id is {self.first} of {self.step}; expected 0 or more, and less than that")
        if self.step is None:
            return names[self.first : self.first + 1]
        return names[self.first :: self.step]


def question(config: str) -> tuple[str, RecordDict]:
    """What a new node is asked: who are you, given the federation's configuration (TOML)?"""
    return "query", RecordDict({RECORD: ConfigRecord({"config": config})})


def about(who: str | Place, rank: object, task: Task, labels: Sequence[str], found: Sequence[Facts]) -> RecordDict:
    """What a node says of itself.

    Args:
        who: the name of its one client, or whom of the federation's own it serves.
        rank: that it declares, as its configuration has it.
        task: of the federation.
        labels: that the server named.
        found: of each of its clients.

    Raises:
        FlowerError: its rank is none, it learns another task, or the task needs labels and its own are not those that
            the server named, in that order. How many are is said, and no name.
    """
    rank = None if rank is None else read_rank(rank)
    for facts in found:
        check_task(task, facts.task)
        if task.labelled:
            check_labels(labels, facts.names)
    said_of_itself = {
        "client": who if isinstance(who, str) else None,
        "place": who.first if isinstance(who, Place) else None,
        "step": who.step if isinstance(who, Place) else None,
        "rank": rank,
        "shapes": dict(found[0].parameters) if found else {},
        "base": dict(found[0].base) if found else {},
        "clients": [
            {
                "examples": facts.examples,
                "labels": facts.labels if task.labelled else of_kinds(labels, facts),
                "left_out": dict(facts.left_out),
            }
            for facts in found
        ],
    }
    try:
        said = About.model_validate_json(json.dumps(said_of_itself))
    except ValidationError as error:
        raise FlowerError(f"the node cannot say this of itself: {_first(error)}") from None
    return RecordDict({RECORD: ConfigRecord({"about": said.model_dump_json()})})


def read_rank(said: object) -> int:
    """A rank that a node declares.

    Raises:
        FlowerError: it is no whole number above 0.
    """
    if not isinstance(said, int) or isinstance(said, bool) or said < 1:
        raise FlowerError(f"its lora-rank is {shown(said)}; expected a whole number of 1 or more")
    return said


def check_task(task: Task, own: str) -> None:
    """Refuse a site that learns something else, as a daemon may that was started with another configuration.

    Raises:
        FlowerError: it does. It goes to the server, so it says what the server's is.
    """
    if own and own != str(task):
        raise FlowerError(
            f"the site learns another task than the federation's {task}; give it the same task.name and task.options, "
            "and for a task that writes the same data.template"
        )


def of_kinds(named: Sequence[str], facts: Facts) -> tuple[int, ...]:
    """How many examples are of each kind that the server named; nothing where the site has others, which it may."""
    own = dict(zip(facts.names, facts.labels, strict=True))
    return tuple(own.get(name, 0) for name in named) if own.keys() <= set(named) and own else ()


def check_labels(named: Sequence[str], own: Sequence[str]) -> None:
    """Refuse a site whose labels are others than the server named, or in another order.

    Raises:
        FlowerError: they are. It goes to the server, so it counts labels and names none.
    """
    known = len(set(own) & set(named))
    if unknown := len(set(own)) - known:
        raise FlowerError(unknown_labels(known, unknown))
    if tuple(own) != tuple(named):
        raise FlowerError(
            f"the site knows {known} of the server's {len(named)} labels, in an order of its own; give it the server's "
            "data.labels"
        )


def unknown_labels(known: int, unknown: int) -> str:
    """Why a site cannot take part, in numbers."""
    return (
        f"{known} of the site's labels are known to the server and {unknown} are not; check which column data.label "
        "names (a site can name its own by data-label), or name all classes in the server's data.labels"
    )


def read_answer(records: RecordDict, most_examples: int = MOST_EXAMPLES) -> About:
    """What a node says of itself, checked for itself.

    Args:
        records: what came.
        most_examples: that a client may have.

    Raises:
        FlowerError: it cannot be read, or makes no sense.
    """
    try:
        said = About.model_validate_json(str(records.config_records[RECORD]["about"]))
    except ValidationError as error:
        raise FlowerError(f"its answer cannot be read: {_first(error)}") from None
    except (KeyError, ValueError) as error:  # no such record; text that is none
        raise FlowerError(f"its answer cannot be read: {type(error).__name__}") from None
    if (said.client is None) == (said.place is None):
        raise FlowerError("its answer has to name its client or a place, and not both")
    if said.client is not None and (len(said.clients) != 1 or not said.client.isprintable()):
        raise FlowerError(f"its answer names {said.client!r} and counts {len(said.clients)} clients, expected 1")
    for counts in said.clients:
        if counts.examples > most_examples:
            raise FlowerError(
                f"it has {counts.examples} examples, expected at most {most_examples}; if so many are right, set "
                "most-examples"
            )
        if counts.labels and sum(counts.labels) != counts.examples:
            raise FlowerError(f"it has {counts.examples} examples, and {sum(counts.labels)} by label")
    return said


def _first(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(part)[:40] for part in found["loc"][:4])
    return f"{place or 'it'}: {found['msg'][:200]}"
