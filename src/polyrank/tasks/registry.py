"""Every task, by name. A new one costs its file and one line here."""

from __future__ import annotations

from polyrank.config import TaskConfig
from polyrank.core.registry import Registry
from polyrank.tasks.classification import Classification
from polyrank.tasks.task import Task

TASKS: Registry[Task] = Registry("task", {"classification": Classification})


def task(config: TaskConfig) -> Task:
    """The task that the configuration names.

    Raises:
        ConfigError: there is none of this name, or an option is unknown or wrong.
    """
    return TASKS.build(config.name, config.options)
