"""A configuration with another method, or with one rank for all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polyrank.config import parse
from polyrank.config.whole import Config


def with_method(config: Config, name: str, options: Mapping[str, Any] | None = None) -> Config:  # Any: TOML values
    """The configuration with another method.

    Args:
        config: as it is.
        name: of the method.
        options: of it; where there are none and it is the configuration's own, the configuration's options hold.
    """
    own = config.aggregation
    kept = options or (own.options if own.method == name else {})
    return _with(config, aggregation=own.model_dump() | {"method": name, "options": dict(kept)})


def with_one_rank(config: Config, rank: int) -> Config:
    """The configuration with this rank for every client."""
    return _with(
        config, ranks=config.ranks.model_dump() | {"levels": [rank], "shares": None, "counts": None, "by_name": {}}
    )


def _with(config: Config, **sections: Mapping[str, Any]) -> Config:  # Any: values of the configuration
    return parse({**config.model_dump(), **sections}, "configuration")
