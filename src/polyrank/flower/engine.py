"""Clients of a round trained on Flower's nodes: for the round an engine like any other."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence

from flwr.app import Message

from polyrank.errors import FlowerError
from polyrank.flower.messages import read_reply, task
from polyrank.flower.nodes import Nodes, exchange
from polyrank.flower.records import nbytes
from polyrank.state import ClientUpdate
from polyrank.training.job import Engine, Job

log = logging.getLogger(__name__)


class FlowerEngine(Engine):
    """Sends each job to its client's node and checks what comes back.

    Args:
        nodes: who is where.
        config: the federation's resolved configuration, TOML.
        wire: dtype of tensors on the way.
        timeout: seconds for a round's replies, and the messages' time to live.
        least: replies without which a round does not count.
        repeats: how often clients that gave no good reply are asked again before the run stops.
    """

    def __init__(
        self, nodes: Nodes, config: str, *, wire: str = "float32", timeout: float, least: int = 1, repeats: int = 1
    ) -> None:
        self.nodes, self.config = nodes, config
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
        updates: dict[str, ClientUpdate] = {}
        failures: dict[str, str] = {}
        self._up = self._down = 0
        least = min(self.least, len(jobs))
        for _ in range(1 + self.repeats):
            self._ask([job for job in jobs if job.client not in updates], updates, failures)
            if len(updates) >= least:
                break
            log.warning("%d of %d clients replied, expected %d", len(updates), len(jobs), least)
        self._failures = {job.client: failures[job.client] for job in jobs if job.client not in updates}
        if len(updates) < least:
            reasons = "; ".join(f"{client}: {reason}" for client, reason in sorted(self._failures.items())[:5])
            raise FlowerError(
                f"{len(updates)} good replies after {1 + self.repeats} attempts, expected {least} ({reasons}); the "
                "rounds until now are saved: start again with resume=true"
            )
        yield from (updates[job.client] for job in jobs if job.client in updates)

    def _ask(self, jobs: Sequence[Job], updates: dict[str, ClientUpdate], failures: dict[str, str]) -> None:
        self.nodes.refresh()
        here = self.nodes.here()
        token = secrets.token_hex(16)
        requests: dict[int, Message] = {}
        for job in jobs:
            if job.client in here:
                content = task(job, token=token, config=self.config, wire=self.wire)
                requests[here[job.client].node] = Message(content, here[job.client].node, "train", ttl=self.timeout)
                self._down += nbytes((tensor for _, tensor in job.adapter.tensors()), self.wire)
                self._down += job.base_change.nbytes if job.base_change else 0
            else:
                failures[job.client] = "its node is not connected"
        by_node = {here[job.client].node: job for job in jobs if job.client in here}
        for node, answer in exchange(self.nodes.grid, requests, self.timeout).items():
            job = by_node[node]
            try:
                if isinstance(answer, FlowerError):
                    raise answer
                examples = here[job.client].examples
                updates[job.client] = read_reply(answer.content, job, token=token, wire=self.wire, examples=examples)
                self._up += nbytes(job.adapter.parts(job.trains).values(), self.wire)
            except FlowerError as error:
                failures[job.client] = str(error)
                log.warning("%s (node %d) gave no good reply: %s", job.client, node, error)
