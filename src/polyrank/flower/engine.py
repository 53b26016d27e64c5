"""Clients of a round trained on Flower's nodes: for the round an engine like any other."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from flwr.app import Message

from polyrank.core.errors import FlowerError
from polyrank.flower.messages import Asked, bytes_of, question, read_answer
from polyrank.flower.nodes import Member, Nodes, collect
from polyrank.flower.records import nbytes
from polyrank.tasks.metric import Metric
from polyrank.training.work import Engine, Moved, Outcome, Work


class FlowerEngine(Engine):
    """Sends each work to its client's node and checks what comes back.

    Args:
        nodes: who is where.
        config: the federation's resolved configuration, TOML.
        metrics: of the task, by which scores of the clients' own are checked.
        wire: dtype of tensors on the way.
        timeout: seconds for a round's replies, and the messages' time to live.
        least: replies without which a round does not count.
        repeats: how often clients that gave no good reply are asked again before the run stops.
    """

    def __init__(
        self,
        nodes: Nodes,
        config: str,
        metrics: Sequence[Metric] = (),
        *,
        wire: str = "float32",
        timeout: float,
        least: int = 1,
        repeats: int = 1,
    ) -> None:
        self.nodes, self.config, self.metrics = nodes, config, metrics
        self.wire, self.timeout, self.least, self.repeats = wire, timeout, least, repeats

    def run(self, works: Sequence[Work]) -> Iterator[Outcome]:
        """One outcome per work, in the order of the works.

        What moved is counted as it travelled, in the wire's dtype: down all parts, since clients keep nothing, of every
        message; up those of a good reply.

        Raises:
            FlowerError: fewer than the least number of replies are good, after all repeats; what was saved stays.
        """
        self.nodes.refresh()
        if not works:  # a private round that nobody takes part in is one
            return
        by_client = {work.client: work for work in works}
        asked: dict[str, Asked] = {}
        moved = dict.fromkeys(by_client, Moved())
        here: Mapping[str, Member] = {}

        def requests(clients: Sequence[str]) -> dict[str, Message | FlowerError]:
            nonlocal here
            token, here = secrets.token_hex(16), self.nodes.here()  # a reply to an earlier attempt is none to this
            asked.update({client: Asked(by_client[client], token, self.config, self.wire) for client in clients})
            for client in clients:
                if client in here:
                    moved[client] += Moved(down=bytes_of(asked[client]))
            return {client: self._request(asked[client], here.get(client)) for client in clients}

        def read(client: str, answer: Message) -> Outcome:
            outcome = read_answer(answer.content, asked[client], here[client].examples, self.metrics)
            moved[client] += Moved(up=nbytes((outcome.trained or {}).values(), self.wire))
            return outcome

        try:
            outcomes, failures = collect(
                self.nodes.grid,
                list(by_client),
                requests,
                read,
                seconds=self.timeout,
                least=self.least,
                repeats=self.repeats,
            )
        except FlowerError as error:
            raise FlowerError(f"{error}; the rounds until now are saved: start again with resume=true") from None
        for client in by_client:
            outcome = outcomes.get(client) or Outcome(client, problem=failures[client])
            yield replace(outcome, moved=moved[client])

    def _request(self, asked: Asked, member: Member | None) -> Message | FlowerError:
        if member is None:
            return FlowerError("its node is not connected")
        return Message(question(asked), member.node, "train", ttl=self.timeout)
