"""Metrics to TensorBoard, W&B, MLflow or Trackio, through accelerate's trackers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from polyrank.core.errors import ConfigError
from polyrank.runs.listener import Listener

if TYPE_CHECKING:
    from polyrank.core.state import ServerState
    from polyrank.federation.server import Server

EVENTS = "events"
"""The folder inside the run folder for trackers that write files."""


class Tracker(Listener):
    """Sends every scalar of a round to one tracker.

    Args:
        name: of ``output.trackers``.
        project: ``output.project``.
        folder: the run folder; trackers that write files write to its ``events``.
    """

    def __init__(self, name: str, project: str, folder: Path) -> None:
        self._name, self._project, self._folder = name, project, folder
        self._tracker: Any = None  # accelerate is untyped

    def __str__(self) -> str:
        return self._name

    def on_start(self, server: Server, state: ServerState) -> None:  # noqa: ARG002  # the listener's signature
        settings = server.config.model_dump(mode="json")
        flat = {f"{section}.{key}": str(value) for section, table in settings.items() for key, value in table.items()}
        PartialState()  # accelerate's trackers ask it which process they are in
        made = LOGGER_TYPE_TO_CLASS[self._name]
        if made.requires_logging_directory or self._name == "mlflow":
            self._tracker = made(self._project, logging_dir=str(self._folder / EVENTS))
        else:
            self._tracker = made(self._project)
        self._tracker.start()
        self._tracker.store_init_configuration(flat)

    def on_untrained(self, metrics: Mapping[str, Any]) -> None:
        self.on_round(metrics)

    def on_round(self, metrics: Mapping[str, Any]) -> None:
        scalars = {k: v for k, v in metrics.items() if isinstance(v, int | float) and k != "round"}
        self._tracker.log(scalars, step=metrics["round"])

    def on_end(self, summary: Mapping[str, Any]) -> None:  # noqa: ARG002  # the listener's signature
        self._tracker.finish()


def trackers(names: Sequence[str], project: str, folder: Path) -> list[Tracker]:
    """One listener per tracker, each on its own: one that fails keeps no other from its metrics.

    Raises:
        ConfigError: a tracker's package is not installed.
    """
    available = {str(name) for name in get_available_trackers()}
    for name in names:
        if name not in available:
            raise ConfigError(f"output.trackers names {name}, which is not installed; install it: pip install {name}")
    return [Tracker(name, project, folder) for name in names]
