"""Metrics to TensorBoard, W&B, MLflow or Trackio, through accelerate's trackers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from polyrank.errors import ConfigError
from polyrank.federation.listener import Listener

if TYPE_CHECKING:
    from polyrank.federation.setup import Federation
    from polyrank.state import ServerState

EVENTS = "events"
"""The folder inside the run folder for trackers that write files."""


class Trackers(Listener):
    """Sends every scalar of a round to the trackers that the configuration names.

    Args:
        names: ``output.trackers``.
        project: ``output.project``.
        folder: the run folder; trackers that write files write to its ``events``.

    Raises:
        ConfigError: a tracker's package is not installed.
    """

    def __init__(self, names: Sequence[str], project: str, folder: Path) -> None:
        available = {str(name) for name in get_available_trackers()}
        for name in names:
            if name not in available:
                raise ConfigError(
                    f"output.trackers names {name}, which is not installed; install it: pip install {name}"
                )
        PartialState()  # accelerate's trackers ask it which process they are in
        self._trackers = [self._make(name, project, folder) for name in names]

    @staticmethod
    def _make(name: str, project: str, folder: Path) -> Any:  # Any: accelerate is untyped
        tracker = LOGGER_TYPE_TO_CLASS[name]
        if tracker.requires_logging_directory or name == "mlflow":
            return tracker(project, logging_dir=str(folder / EVENTS))
        return tracker(project)

    def on_start(self, federation: Federation, state: ServerState) -> None:  # noqa: ARG002  # the listener's signature
        settings = federation.config.model_dump(mode="json")
        flat = {f"{section}.{key}": str(value) for section, table in settings.items() for key, value in table.items()}
        for tracker in self._trackers:
            tracker.start()
            tracker.store_init_configuration(flat)

    def on_round(self, metrics: Mapping[str, Any]) -> None:
        scalars = {k: v for k, v in metrics.items() if isinstance(v, int | float) and k != "round"}
        for tracker in self._trackers:
            tracker.log(scalars, step=metrics["round"])

    def on_end(self, summary: Mapping[str, Any]) -> None:  # noqa: ARG002  # the listener's signature
        for tracker in self._trackers:
            tracker.finish()
