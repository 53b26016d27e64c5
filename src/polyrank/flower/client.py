"""The ClientApp: a node's worker, asked by messages."""

from __future__ import annotations

import json
import time
import tomllib
from collections.abc import Callable, Mapping
from typing import TypeAlias

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from polyrank import config as configuration
from polyrank.config import Config
from polyrank.errors import FlowerError
from polyrank.flower.messages import FACTS, answer, read_task, reply
from polyrank.site.worker import LocalWorker, Worker

NodeConfig: TypeAlias = Mapping[str, bool | float | int | str]
MakeWorker: TypeAlias = Callable[[Config, NodeConfig], Worker]
OWN = {
    **{"data-train": "train", "data-test": "test", "data-text": "text", "data-label": "label"},
    "data-quoting": "quoting",
}
"""Keys of a node's configuration that replace those of the federation's ``[data]``."""
ALONE = {
    **{"test": None, "limit_train": None, "limit_test": None, "size": None, "column": None},
    **{"partition": "iid", "quoting": "auto"},
}
"""What the federation's ``[data]`` says of its own data, and not of a site's."""

_workers: dict[tuple[str, str], Worker] = {}


def make_client_app(make_worker: MakeWorker | None = None) -> ClientApp:
    """A ClientApp that trains what it is asked to.

    Args:
        make_worker: a worker for the federation's configuration and the node's, for data or models of your own; called
            once per process. By default `worker`.
    """
    app = ClientApp()
    make = make_worker or worker

    def held(text: str, node: NodeConfig) -> Worker:
        key = text, json.dumps(dict(node), sort_keys=True)
        if key not in _workers:
            _workers.clear()  # of another run: a base is too large to keep two
            _workers[key] = make(configuration.parse(tomllib.loads(text), "the server's configuration"), node)
        return _workers[key]

    @app.query()
    def facts(message: Message, context: Context) -> Message:
        """What the node says of itself."""
        scores_own(context.node_config)  # refused now, and not in the first round
        text = str(message.content.config_records[FACTS]["config"])
        own = held(text, context.node_config)
        client = client_name(own, context)
        found = own.facts(client)
        rank = context.node_config.get("lora-rank")
        return Message(answer(client, rank, found), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        """One client's local training; before it, what was sent is scored on the node's own test set, if it has one."""
        task, token, text, wire = read_task(message.content)
        own, scores = held(text, context.node_config), None
        if task.round > 0 and scores_own(context.node_config):
            scores = own.score(task.client, task.adapter, task.base_change)
        start = time.perf_counter()
        update = own.train(task)
        seconds = time.perf_counter() - start
        content = reply(update, task.trains, token=token, wire=wire, seconds=seconds, scores=scores)
        return Message(content, reply_to=message)

    return app


def worker(config: Config, node: NodeConfig) -> Worker:
    """What a node trains with: its site's daemon, its own data, or its part of the federation's data.

    Args:
        config: the federation's, resolved by the server.
        node: the node's configuration. ``site-socket`` names the socket of `polyrank site`; ``data-train`` (with
            ``data-test``, ``data-text``, ``data-label``) a file of its own; ``model`` its copy of the base.

    Raises:
        FlowerError: there are keys for data, and no ``data-train``.
    """
    if "site-socket" in node:
        from polyrank.site.client import SiteClient

        return SiteClient(str(node["site-socket"]))
    own = {key: str(node[name]) for name, key in OWN.items() if name in node}
    overrides = ["training.workers=1"]
    if "model" in node:
        overrides.append(f"model.name={json.dumps(str(node['model']))}")
    if "train" in own:
        overrides.append("federation.clients=1")
        config = config.model_copy(update={"data": config.data.model_copy(update={**ALONE, **own})})
    elif own:
        raise FlowerError(f"the node has {', '.join(sorted(OWN.keys() & node.keys()))}, expected data-train beside it")
    return LocalWorker.from_config(configuration.override(config, overrides))


def scores_own(node: NodeConfig) -> bool:
    """Whether a node scores what it is sent, on its own test set: ``evaluate``, by default where it has own data.

    Raises:
        FlowerError: ``evaluate`` is neither true nor false.
    """
    chosen = node.get("evaluate", "data-train" in node or "site-socket" in node)
    if not isinstance(chosen, bool):
        raise FlowerError(f"the node's evaluate is {chosen!r}; expected true or false")
    return chosen


def client_name(own: Worker, context: Context) -> str:
    """``client`` of the node's configuration, else the client at ``partition-id`` in the order of names.

    Raises:
        FlowerError: there is neither.
    """
    node = context.node_config
    if "client" in node:
        return str(node["client"])
    if isinstance(own, LocalWorker) and len(own.federation.clients) > 1 and "partition-id" in node:
        names, place = own.federation.clients, int(node["partition-id"])
        if not 0 <= place < len(names):
            raise FlowerError(f"partition-id is {place}; expected 0 to {len(names) - 1}, one per client")
        return names[place]
    if "partition-id" in node:
        return f"client-{int(node['partition-id'])}"
    raise FlowerError("the node has no name; give it client=NAME in --node-config (and lora-rank=R)")
