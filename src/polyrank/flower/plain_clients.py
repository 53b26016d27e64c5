"""Plain ClientApps as the clients of a round: what each is sent, and what of its reply counts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from polyrank.aggregation import Download, Method
from polyrank.core.errors import FlowerError
from polyrank.core.state import ClientUpdate, ServerState
from polyrank.federation.round import parts_of, read_outs
from polyrank.federation.tree import RoundResult
from polyrank.flower.nodes import collect, reason_of
from polyrank.flower.peft_arrays import read_arrays, to_arrays
from polyrank.flower.records import shown


class PlainClients:
    """Clients that know no more than arrays, a configuration and metrics; each is its node's number.

    Args:
        method: of aggregation.
        arrays: key of the record of arrays.
        config: key of the record of the configuration.
        examples: key of a client's number of examples, which is its weight.
        most_examples: that a client may have.
        least: good replies that are enough.
        repeats: how often those that gave none are asked again.
    """

    def __init__(
        self,
        method: Method,
        *,
        arrays: str,
        config: str,
        examples: str,
        most_examples: int,
        least: int,
        repeats: int,
    ) -> None:
        self.method, self.most_examples, self.least, self.repeats = method, most_examples, least, repeats
        self.arrays, self.config, self.examples = arrays, config, examples
        self.sent: Mapping[str, Download] = {}
        """What the last messages held, by client."""
        self._failures: Mapping[str, str] = {}
        self._read: dict[str, tuple[Message, ClientUpdate]] = {}  # replies that were read while they were collected

    def contents(self, state: ServerState, clients: Sequence[str], config: ConfigRecord) -> dict[str, RecordDict]:
        """What each client is sent, with the arrays cut to its rank.

        Args:
            state: before the round.
            clients: to ask.
            config: of the caller's own, sent along.
        """
        self.sent = read_outs(state, clients, self.method)
        trains = parts_of(self.method, state.round + 1, local_head=False).trains
        made: dict[str, RecordDict] = {}
        for client, sent in self.sent.items():
            about = ConfigRecord(dict(config))
            about["server-round"] = state.round + 1
            about["trains"] = ",".join(sorted(trains))
            factors = next(iter(sent.adapter.modules.values()))
            about["lora-rank"], about["lora-scale"] = state.ranks[client], factors.scale
            made[client] = RecordDict({self.arrays: to_arrays(sent.adapter), self.config: about})
        return made

    def collect(self, grid: Grid, messages: Iterable[Message], seconds: float) -> list[Message]:
        """Good replies; who gave none is asked again if they are too few.

        Raises:
            FlowerError: they are too few after all repeats.
        """
        contents = {str(message.metadata.dst_node_id): message.content for message in messages}

        def requests(clients: Sequence[str]) -> dict[str, Message | FlowerError]:
            return {c: Message(contents[c], int(c), "train", ttl=seconds) for c in clients}

        self._read = {}

        def read(client: str, reply: Message) -> Message:
            self._read[client] = reply, self.update(client, reply)
            return reply

        replies, self._failures = collect(
            grid, list(contents), requests, read, seconds=seconds, least=self.least, repeats=self.repeats
        )
        return list(replies.values())

    def update(self, client: str, reply: Message) -> ClientUpdate:
        """A client's update, from a reply in which everything is as it must be.

        Raises:
            FlowerError: something is not.
        """
        content, key = reply.content, self.examples
        if self.arrays not in content.array_records:
            raise FlowerError(f"the reply has no record of arrays {self.arrays!r}")
        records = list(content.metric_records.values())
        if len(records) != 1 or key not in records[0]:
            raise FlowerError(f"the reply has {len(records)} records of metrics, expected one with {key}")
        numbers = {name: number for name, value in records[0].items() if (number := _number(value)) is not None}
        weight = numbers.pop(key, math.nan)
        if not 0 < weight <= self.most_examples:
            found = shown(records[0][key])
            raise FlowerError(f"its {key} is {found}, expected more than 0, at most {self.most_examples}")
        adapter = read_arrays(content.array_records[self.arrays], self.sent[client].adapter)
        return ClientUpdate(client, adapter, weight, numbers)

    def updates(self, replies: Iterable[Message]) -> tuple[list[ClientUpdate], dict[str, str]]:
        """Updates of those that were asked and gave a good reply, and why the others gave none."""
        found: list[ClientUpdate] = []
        dropped: dict[str, str] = {}
        for reply in replies:
            client = str(reply.metadata.src_node_id)
            if reply.has_error() or client not in self.sent:
                continue  # an error that the SuperLink made names another node
            try:
                known, update = self._read.get(client, (None, None))
                found.append(update if update is not None and known is reply else self.update(client, reply))
            except FlowerError as error:
                dropped[client] = reason_of(error)
        silent = self.sent.keys() - {update.client for update in found} - dropped.keys()
        return found, dropped | {c: self._failures.get(c, "no reply, or an error") for c in silent}

    def metrics(self, updates: Sequence[ClientUpdate], result: RoundResult) -> MetricRecord:
        """Metrics of a round: the clients' own, weighted as their updates, and what was counted."""
        good = set(result.used)
        used = [update for update in updates if update.client in good]
        numbers: dict[str, int | float | list[int] | list[float]] = {}
        for name in sorted({name for update in used for name in update.metrics}):
            having = [update for update in used if name in update.metrics]
            total = sum(update.weight for update in having)  # first, or a number that a float just holds is too large
            numbers[name] = sum(update.weight / total * update.metrics[name] for update in having)
        numbers |= {f"aggregation/{name}": float(value) for name, value in result.metrics.items()}
        numbers |= {"clients": len(self.sent), "dropped": len(self.sent) - len(used)}
        numbers["bytes/up"] = sum(update.adapter.nbytes for update in updates)
        numbers["bytes/down"] = sum(sent.adapter.nbytes for sent in self.sent.values())
        return MetricRecord(numbers)


def _number(value: object) -> float | None:
    """A finite number that a client measured; None for lists, and for what is none or too large for a float."""
    if not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
