"""What a trained model comes to on any data: its metrics, what it answers, and which class it gives each text."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from polyrank.config import Config, parse
from polyrank.core.errors import ConfigError
from polyrank.data.dataset import TextDataset
from polyrank.data.sources import read_one
from polyrank.federation.loading import encode_set, end_for
from polyrank.federation.population import load_data
from polyrank.hf.resident import ResidentModel
from polyrank.runs.agreement import differences
from polyrank.runs.answers import Answer, answers, drawn, in_words
from polyrank.runs.trained import Trained
from polyrank.tasks import settled
from polyrank.tasks.causal_lm.prompts import NONE
from polyrank.tasks.causal_lm.rouge import rouge_l, words
from polyrank.tasks.registry import AUTO, options_of, recorded, writing_of
from polyrank.tasks.task import Encoded, Task
from polyrank.training.evaluate import batches, by_kind
from polyrank.training.lanes import Lanes

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Asked:
    """What is measured.

    Args:
        config: of the data and of the evaluation.
        task: with the options that count here.
        dataset: the texts.
        encoded: the same as examples.
        labelled: whether every text has a label, where the task learns them; without, only answers can be given.
    """

    config: Config
    task: Task
    dataset: TextDataset
    encoded: Encoded
    labelled: bool


def asked(found: Trained, config: Config | None, source: str | None, tokenizer: Any) -> Asked:  # Any: of transformers
    """The data that a model is measured with.

    Args:
        found: the model.
        config: whose ``[data]`` and ``[evaluation]`` are used; None for the run's own.
        source: test data in place of those of the configuration.
        tokenizer: the model's.

    Raises:
        PolyRankError: there are no data, or they cannot be read.
    """
    own = found.run.read_config() if found.run else None
    if config is None and own is None and source is None:
        raise ConfigError(
            f"{found.path} is no run folder, and says nothing of data; give a configuration with [data], or --data FILE"
        )
    chosen = _of_task(found, config or own or Config())
    task = found.task
    if config is not None and "template" in config.data.model_fields_set:
        task = replace(task, **{name: config.data.template for name in options_of(task) if name == "template"})
    chosen = recorded(settled(chosen), task)
    dataset = _read(found, chosen, task, source, original=config is None and own is not None)
    if not dataset.turns and task.writes and chosen.data.template not in (NONE, AUTO):
        log.warning(
            "%s holds whole texts, which are measured as they stand: the model learned to answer under a template (%s)",
            *(dataset.where, chosen.data.template),
        )
    labelled = dataset.labels is not None or not task.labelled
    if not labelled:  # a place for each, so that the texts can be encoded
        dataset = replace(dataset, labels=np.zeros(len(dataset), dtype=np.int64), label_names=found.target.labels)
    encoded = encode_set(chosen, task, dataset, tokenizer, end_for(chosen, task))
    return Asked(chosen, task, dataset, encoded, labelled)


def _of_task(found: Trained, config: Config) -> Config:
    """A configuration of the model's task, base and classes, whatever it says of them."""
    if config.task.name not in (AUTO, found.target.task):
        raise ConfigError(
            f"{found.path} was trained for {found.target.task}, and task.name is {config.task.name!r}; leave it out"
        )
    values = config.model_dump(exclude_unset=True)
    values["task"] = {"name": found.target.task, "options": dict(found.target.options)}
    values["model"] = found.target.model.model_dump()
    if found.task.labelled:
        values["data"] = {**values.get("data", {}), "labels": list(found.target.labels)}
    return parse(values, "configuration")


def _read(found: Trained, config: Config, task: Task, source: str | None, *, original: bool) -> TextDataset:
    options = config.data
    if source is not None:
        return read_one(
            source,
            text=options.text,
            writing=writing_of(options) if task.writes else None,
            label=options.label,
            labels=options.labels if task.labelled else None,
            quoting=options.quoting,
            extra_columns=task.columns,
            limit=options.limit_test,
            seed=config.federation.seed,
        )
    split = load_data(config)
    if original and found.run:
        kept: Mapping[str, str] = found.run.read_json("run").get("digests") or {}
        there = {name: value for name, value in kept.items() if name in split.digests}
        if changed := differences(there, {name: split.digests[name] for name in there}):
            log.warning("the data changed since the run was made, and what is measured may be other: %s", changed[0])
    return split.test


def measure(resident: ResidentModel, what: Asked) -> dict[str, Any]:  # Any: numbers, and kind -> one
    """The task's metrics of whatever is installed, in all and by kind, as a run has them after ``test/``."""
    size = what.config.evaluation.batch_size
    return by_kind(Lanes(resident), what.task, what.encoded.examples, what.dataset.label_names, size)


@dataclass(frozen=True)
class Reply:
    """An answer beside the right one.

    Args:
        row: of the source, counted from 1.
        prompt: what came before, as the model was given it.
        reference: the right answer.
        answer: what was written.
        rouge_l: of it, 0 to 1.
        exact: whether it is the right one, spaces around it aside.
    """

    row: int
    prompt: str
    reference: str
    answer: Answer
    rouge_l: float
    exact: bool


def replies(resident: ResidentModel, what: Asked, count: int, most: int) -> list[Reply]:
    """What whatever is installed answers to some examples, of every kind where there are kinds.

    Args:
        resident: a model that writes.
        what: is asked.
        count: how many are asked; all, where there are not so many.
        most: tokens of an answer.
    """
    examples, task, tokenizer = what.encoded.examples, what.task, resident.base.tokenizer
    chosen = drawn(examples, count, what.config.federation.seed).tolist()
    found = answers(resident, task, [task.asked(examples, i)[0].tolist() for i in chosen], most)
    made = []
    for i, answer in zip(chosen, found, strict=True):
        prompt, reference = in_words(task, tokenizer, examples, i)
        score, exact = rouge_l(reference, answer.text), reference.strip() == answer.text.strip()
        made.append(Reply(what.dataset.row(int(what.encoded.kept[i])), prompt, reference, answer, score, exact))
    return made


def compared(found: Sequence[Reply]) -> dict[str, float]:
    """Means over answers, and how many of them say less than they seem.

    ``cut``: the limit ended them; ``empty``: nothing was written; ``unread``: ROUGE knows no word of the right answer,
    as in scripts other than the Latin one, so that its 0 says nothing.
    """
    return {
        "answers": len(found),
        "rouge_l": float(np.mean([one.rouge_l for one in found])),
        "exact_match": float(np.mean([one.exact for one in found])),
        "cut": sum(one.answer.cut for one in found),
        "empty": sum(not one.answer.text.strip() for one in found),
        "unread": sum(not words(one.reference) for one in found),
    }


@torch.inference_mode()
def probabilities(resident: ResidentModel, what: Asked) -> np.ndarray:
    """Each example's probability of each class by whatever is installed, float64, ``(examples, classes)``.

    Raises:
        ConfigError: the task gives no classes.
    """
    if not what.task.classifies:
        raise ConfigError(f"the task {what.config.task.name} gives no class to a text, so there are no probabilities")
    examples, size = what.encoded.examples, what.config.evaluation.batch_size
    rows, each = [], []
    for chosen, batch in batches(resident, what.task, examples, size):
        with resident.computing():
            each.append(what.task.probabilities(resident.model, batch).double().cpu().numpy())
        rows.append(chosen)
    found: np.ndarray = np.concatenate(each)[np.argsort(np.concatenate(rows))]
    return found
