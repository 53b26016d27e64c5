from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from polyrank.config import Config
from polyrank.core.adapter import Adapter
from polyrank.core.state import ServerState
from polyrank.flower import make_client_app
from polyrank.flower.server import Settings
from polyrank.runs import checkpoint

Answer = Callable[[Message, Context], Message]


class InProcess(Grid):
    """Nodes in this process, each answering at once; what raises becomes an error message, as in Flower.

    Args:
        app: of every node.
        nodes: node -> its configuration.
        changed: node -> what answers in the place of the app.
    """

    def __init__(self, app: ClientApp, nodes: Mapping[int, Mapping[str, Any]]) -> None:
        self.app = app
        self.contexts = {n: Context(1, n, dict(c), RecordDict(), {}) for n, c in nodes.items()}
        self.changed: dict[int, Answer] = {}
        self.absent: set[int] = set()
        self.sent: list[Message] = []
        self._numbers = itertools.count()
        self._replies: dict[str, Message] = {}

    def set_run(self, run: Any) -> None: ...

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return [node for node in self.contexts if node not in self.absent]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        names = []
        for message in messages:
            name = f"m{next(self._numbers)}"
            message.metadata.__dict__["_message_id"] = name
            self.sent.append(message)
            names.append(name)
            node = message.metadata.dst_node_id
            answer = self.changed.get(node, self.app)
            try:
                self._replies[name] = answer(message, self.contexts[node])
            except Exception as error:
                self._replies[name] = Message(Error(0, repr(error)), reply_to=message)
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(name) for name in message_ids if name in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:  # noqa: ARG002
        return self.pull_messages(self.push_messages(messages))


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1, raising=False)
    monkeypatch.setattr(logging.getLogger("flwr"), "disabled", False)  # import-linter's set-up of logging disables it


QUICK = Settings(wait=1, timeout=5)


def grid(clients: int = 6, **own: Any) -> InProcess:
    return InProcess(make_client_app(), {100 + i: {"partition-id": i, **own} for i in range(clients)})


def anyhow(config: Config) -> Config:
    """The same for any number of clients."""
    return config.model_copy(update={"ranks": config.ranks.model_copy(update={"counts": None})})


def state(folder: Path) -> ServerState:
    return checkpoint.load(folder / "checkpoint")


def apart(one: Adapter, other: Adapter) -> float:
    pairs = zip(one.tensors(), other.tensors(), strict=True)
    return max(float((a - b).abs().max()) for (_, a), (_, b) in pairs)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
