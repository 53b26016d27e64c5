"""Every task, by name, and which one a configuration's data are of. A new one costs its file and one line here."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import fields
from typing import Any

from polyrank.config import Config, DataConfig, parse
from polyrank.core.errors import DataError
from polyrank.core.registry import Registry
from polyrank.data.sources import columns_of
from polyrank.data.sources.formats import Format, Writing
from polyrank.data.sources.tables import listed
from polyrank.tasks.causal_lm import CausalLM
from polyrank.tasks.classification import Classification
from polyrank.tasks.task import Task

log = logging.getLogger(__name__)

TASKS: Registry[Task] = Registry(
    "task", {"classification": Classification, "causal-lm": CausalLM}, group="polyrank.tasks", base=Task
)
AUTO = "auto"


def task(config: Config) -> Task:
    """The task of a configuration that names it (`settled`), with its options.

    Options come from ``task.options``, and from keys of their own in ``[data]``, such as ``data.template``.

    Raises:
        ConfigError: there is none of this name, or an option is unknown or wrong.
    """
    name, keys = config.task.name, DataConfig.model_fields.keys()
    named = {option: getattr(config.data, option) for option in TASKS.options(name) if option in keys}
    return TASKS.build(name, named | config.task.options)


def recorded(config: Config, task: Task) -> Config:
    """The configuration with a task's options as they are by now, each where the configuration has it."""
    now, given = options_of(task), config.task.options
    keys = DataConfig.model_fields.keys() - given.keys()
    data = config.data.model_copy(update={name: value for name, value in now.items() if name in keys})
    options = {name: now.get(name, value) for name, value in given.items()}
    return config.model_copy(update={"data": data, "task": config.task.model_copy(update={"options": options})})


def options_of(task: Task) -> dict[str, Any]:  # Any: as in `Registry.build`
    """A task's options: its fields."""
    return {field.name: getattr(task, field.name) for field in fields(task)}


def settled(config: Config) -> Config:
    """The configuration with its task named, and with the task's own defaults where it sets nothing.

    Raises:
        ConfigError: there is no such task.
        DataError: the columns of the data are asked for, and the data cannot be read.
    """
    name = config.task.name if config.task.name != AUTO else _of_the_data(config)
    values: dict[str, dict[str, Any]] = config.model_dump(exclude_unset=True)  # Any: TOML values
    for section, keys in TASKS.named(name).defaults.items():
        values[section] = {**keys, **values.get(section, {})}
    values["task"] = {**values.get("task", {}), "name": name}
    return parse(values, "configuration")


def _of_the_data(config: Config) -> str:
    """What the columns of the training data say."""
    data, writing = config.data, writing_of(config.data)
    if writing.format is not None or data.prompt or data.completion or data.messages:
        return "causal-lm"
    columns = columns_of(data.train, quoting=data.quoting)
    texts = set(listed(data.text))
    forms = writing.possible(columns)
    if texts <= set(columns) and data.label in columns:
        if others := [form for form in forms if form != "text"]:
            log.warning(
                "%s has columns of a classifier (%s, %s) and of a model that writes (%s): it is taken for the former; "
                "task.name = 'causal-lm' takes it for the latter",
                *(data.train, ", ".join(sorted(texts)), data.label, " or ".join(others)),
            )
        return "classification"
    if forms:
        return "causal-lm" if forms[0] != "text" or _nothing_but(texts, columns, data) else "classification"
    if not {"text", "label"} & data.model_fields_set and data.label not in columns:
        found = ", ".join(repr(column[:40]) for column in columns)
        raise DataError(
            f"{data.train} does not say what is learned of it; columns found: {found}. Name those of a classifier "
            "(data.text, data.label), or those of a model that writes (data.prompt and data.completion, data.messages)"
        )
    return "classification"


def _nothing_but(texts: Collection[str], columns: Collection[str], data: DataConfig) -> bool:
    """Whether there are only texts: among other columns one may be a label whose name was not given."""
    return set(columns) <= {*texts, data.column} and "label" not in data.model_fields_set


def writing_of(data: DataConfig) -> Writing:
    """How the rows of the data are read for a model that writes."""
    form: Format | None = None if data.format == "auto" else data.format
    return Writing(form, data.text, data.prompt, data.completion, data.messages)
