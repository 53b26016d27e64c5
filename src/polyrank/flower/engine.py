"""Clients of a round trained on Flower's nodes: for the round an engine like any other."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence

from flwr.app import Message

from polyrank.core.errors import FlowerError
from polyrank.core.state import ClientUpdate
from polyrank.flower.messages import read_reply, task
from polyrank.flower.nodes import Member, Nodes, collect
from polyrank.flower.records import nbytes
from polyrank.tasks.metric import Metric
from polyrank.training.work import Engine, Job


class FlowerEngine(Engine):
    """Sends each job to its client's node and checks what comes back.

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
        self._failures: dict[str, str] = {}
        self._up = self._down = 0

    def failures(self) -> Mapping[str, str]:
        """Clients of the last call that gave no good reply, and why."""
        return self._failures

    def traffic(self) -> tuple[int, int]:
        """As they travelled: in the wire's dtype; down all parts (clients keep nothing), up those of good replies."""
        return self._up, self._down

    def train(self, jobs: Sequence[Job]) -> Iterator[ClientUpdate]:
        """One update per job whose reply is good, in the order of the jobs.

        Raises:
            FlowerError: fewer than the least number are good, after all repeats; what was saved stays.
        """
        self._up = self._down = 0
        self.nodes.refresh()
        by_client, token = {job.client: job for job in jobs}, ""
        here: Mapping[str, Member] = {}

        def requests(clients: Sequence[str]) -> dict[str, Message | FlowerError]:
            nonlocal token, here
            token, here = secrets.token_hex(16), self.nodes.here()  # a reply to an earlier attempt is none to this
            return {client: self._request(by_client[client], here.get(client), token) for client in clients}

        def read(client: str, answer: Message) -> ClientUpdate:
            job, examples = by_client[client], here[client].examples
            update = read_reply(
                answer.content, job, token=token, wire=self.wire, examples=examples, metrics=self.metrics
            )
            self._up += nbytes(job.adapter.parts(job.trains).values(), self.wire)
            return update

        try:
            updates, self._failures = collect(
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
        yield from (updates[client] for client in by_client if client in updates)

    def _request(self, job: Job, member: Member | None, token: str) -> Message | FlowerError:
        if member is None:
            return FlowerError("its node is not connected")
        content = task(job, token=token, config=self.config, wire=self.wire)
        self._down += nbytes((tensor for _, tensor in job.adapter.tensors()), self.wire)
        self._down += job.base_change.nbytes if job.base_change else 0
        return Message(content, member.node, "train", ttl=self.timeout)
