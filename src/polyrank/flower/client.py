"""The ClientApp: a node's worker, asked by messages."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from typing import TypeAlias

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from polyrank import config as configuration
from polyrank.config import Config
from polyrank.errors import FlowerError
from polyrank.flower.messages import FACTS, read_task, reply
from polyrank.site.worker import LocalWorker, Worker

NodeConfig: TypeAlias = Mapping[str, bool | float | int | str]
MakeWorker: TypeAlias = Callable[[Config, NodeConfig], Worker]
OWN = {"data-train": "data.train", "data-text": "data.text", "data-label": "data.label", "model": "model.name"}
"""Keys of a node's configuration that replace the federation's: what is a site's own."""

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
        text = str(message.content.config_records[FACTS]["config"])
        own = held(text, context.node_config)
        client = client_name(own, context)
        found = own.facts(client)
        rank = context.node_config.get("lora-rank")
        about = {"client": client, "rank": rank, "examples": found.examples, "labels": list(found.labels)}
        return Message(RecordDict({FACTS: ConfigRecord({"about": json.dumps(about)})}), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        """One client's local training."""
        task, token, text, wire = read_task(message.content)
        update = held(text, context.node_config).train(task)
        return Message(reply(update, task.trains, token=token, wire=wire), reply_to=message)

    return app


def worker(config: Config, node: NodeConfig) -> Worker:
    """What a node trains with: its site's daemon, its own data, or its part of the federation's data.

    Args:
        config: the federation's, resolved by the server.
        node: the node's configuration. ``site-socket`` names the socket of `polyrank site`; ``data-train`` (with
            ``data-text``, ``data-label``) a file of its own, all of which it trains on; ``model`` its copy of the base.
    """
    if "site-socket" in node:
        from polyrank.site.client import SiteClient

        return SiteClient(str(node["site-socket"]))
    own = [f"{key}={json.dumps(str(node[name]))}" for name, key in OWN.items() if name in node]
    alone = ["federation.clients=1"] if "data-train" in node else []
    return LocalWorker.from_config(configuration.override(config, [*own, *alone, "training.workers=1"]))


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
