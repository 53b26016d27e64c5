"""What a node trains with: its site's daemon, data of its own, or its part of the federation's data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from polyrank import config as configuration
from polyrank.config import Config
from polyrank.core.errors import FlowerError, did_you_mean
from polyrank.federation.participant import Participant
from polyrank.flower.held import NodeConfig
from polyrank.tasks import settled, task

DATA = "data-"
"""Before the keys of a node's configuration that replace those of the federation's ``[data]``."""
OF_DATA = {
    f"{DATA}{key}": key
    for key in ("train", "test", "text", "format", "prompt", "completion", "messages", "label", "quoting")
}
"""Those keys, and what they replace."""
LISTS = ("text", "prompt")
"""Of them those that may name several columns."""
ALONE = {
    **{"test": None, "limit_train": None, "limit_test": None, "size": None, "column": None},
    **{"partition": "iid", "quoting": "auto"},
}
"""What the federation's ``[data]`` says of its own data, and not of a site's."""
OTHER_COLUMNS: Mapping[str, Mapping[str, str | None]] = {
    "text": {"format": "text", "prompt": None, "completion": None, "messages": None},
    "prompt": {"format": "prompt", "messages": None},
    "completion": {"format": "prompt", "messages": None},
    "messages": {"format": "messages", "prompt": None, "completion": None},
}
"""What else it says of columns that is not of a site's, where a model learns to write and the site names this one."""


def participant(config: Config, node: NodeConfig) -> Participant:
    """What a node trains with.

    Args:
        config: the federation's, resolved by the server.
        node: the node's configuration. ``site-socket`` names the socket of `polyrank site`; ``data-train`` (with the
            other keys of `OF_DATA`) a file of its own; ``model`` its copy of the base.

    Raises:
        FlowerError: there are keys for data, and no ``data-train``.
        ConfigError: a value of theirs is none that the configuration knows.
    """
    if "site-socket" in node:
        from polyrank.site.client import SiteClient

        return SiteClient(str(node["site-socket"]))
    own = {key: str(node[name]) for name, key in OF_DATA.items() if name in node}
    # a message holds one client's work
    overrides = ["training.workers=1", "training.lanes=1", "training.cluster=none"]
    if "model" in node:
        overrides.append(f"model.name={json.dumps(str(node['model']))}")
    if "train" in own:
        overrides.append("federation.clients=1")
        overrides += [f"data.{key}={_value(key, value)}" for key, value in own.items()]
        config = config.model_copy(update={"data": config.data.model_copy(update=_alone(config, own))})
    elif own:
        has = ", ".join(name for name, key in sorted(OF_DATA.items()) if key in own)
        raise FlowerError(f"the node has {has}, expected data-train beside it")
    from polyrank.federation import loading

    return loading.participant(configuration.override(config, overrides))


def check_keys(node: Iterable[str]) -> None:
    """Refuse a key that would be about data and is not known: the data would be read without it.

    Raises:
        FlowerError: there is one.
    """
    for key in node:
        if key.startswith(DATA) and key not in OF_DATA:
            raise FlowerError(f"the node's configuration: {did_you_mean(key, OF_DATA)}")


def _alone(config: Config, own: Mapping[str, str]) -> dict[str, Any]:  # Any: values of the configuration
    """What a site's own data do without of the federation's ``[data]``.

    Where texts need no labels, their kinds are those of the column that the site names, whichever they are.
    """
    found: dict[str, Any] = dict(ALONE)
    learned = task(settled(config))
    if not learned.labelled:
        found |= {"labels": None, "label": ""}
    if learned.writes:
        for key in own:
            found |= OTHER_COLUMNS.get(key, {})
    return found


def _value(key: str, value: str) -> str:
    """A node's value, which is text, as TOML: of columns a list may be meant."""
    return value if key in LISTS and value.lstrip().startswith("[") else json.dumps(value)
