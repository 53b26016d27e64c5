"""How a configuration's clients are trained here: as it says, as it was measured before, or as is measured now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from polyrank.config import Config
from polyrank.config.sections import MEASURED, NO_CLUSTER
from polyrank.core.limits import cores, memory
from polyrank.core.machine import about_this_machine, processor
from polyrank.federation.population import global_rank, initial
from polyrank.federation.round import cohort
from polyrank.hf.digest import CONFIGURATION
from polyrank.hf.resident import ResidentModel
from polyrank.tasks import Task
from polyrank.tasks.task import Examples
from polyrank.training.tuning import remembered
from polyrank.training.tuning.planner import Plan, choose
from polyrank.training.work import Work

MATTERS = (*MEASURED, "optimizer", "epochs", "batch_size", "accumulate", "gradient_checkpointing", "cuda_graphs")
"""Keys of ``[training]`` on which it depends what is fast."""
TEXTS = "training texts"
"""Whose digest stands for how long they are; the rows that clients hold differ by seed."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """What was ``auto`` is settled.

    Args:
        config: with everything in its place.
        resident: the base as the configuration has it.
        plan: of the engine.
    """

    config: Config
    resident: ResidentModel
    plan: Plan


def chosen(
    config: Config,
    task: Task,
    load: Callable[[torch.dtype, str], ResidentModel],
    examples: Mapping[str, Examples],
    *,
    digests: Mapping[str, str],
) -> Chosen:
    """Precision, attention and engine of such a run, and the base in that form.

    Args:
        config: of the federation.
        task: what is learned.
        load: ``(dtype, attention)`` -> the base.
        examples: client -> what it learns from.
        digests: of the base and the data.

    Raises:
        ModelError: the base does not have what the configuration asks for.
    """
    asked, options = config.training, config.federation
    names = cohort(sorted(examples), options.participation, options.seed, 1)
    actors = asked.workers if asked.cluster != NO_CLUSTER else None
    if actors is not None:  # this machine stands for each of them, and they share the cohort
        assert isinstance(actors, int)
        names = names[: -(-len(names) // actors)]
    of = _depends_on(config, digests, examples, len(names))
    known = remembered.recall(asked, of)
    if known is not None:
        config = config.model_copy(update={"training": remembered.filled(asked, known)})

    def works(resident: ResidentModel) -> list[Work]:
        adapter = initial(resident, config)
        return [Work(name, 1, adapter, seed) for seed, name in enumerate(names)]

    here = config.training.model_copy(update={} if actors is None else {"workers": 1})
    choice = choose(load, task, examples, here, works, rounds=options.rounds)
    choice.resident.install(initial(choice.resident, config))
    plan = choice.plan if known is None else replace(choice.plan, reason=known.reason, before=True)
    if actors is not None:
        plan = replace(plan, workers=actors)
    training = {
        **{"precision": choice.form.precision, "attention": choice.form.attention, "engine": plan.engine},
        **{"clients_per_pass": plan.clients_per_pass, "lanes": plan.lanes, "workers": plan.workers},
    }
    config = config.model_copy(
        update={
            "model": choice.resident.base.config,
            "federation": options.model_copy(update={"clients": len(examples)}),
            "training": config.training.model_copy(update=training),
        }
    )
    if known is None:
        remembered.keep(asked, of, config.training, plan.reason)
    return Chosen(config, choice.resident, plan)


def _depends_on(
    config: Config, digests: Mapping[str, str], examples: Mapping[str, Examples], cohort_size: int
) -> dict[str, Any]:
    """All that decides what is fast, as plain values: machine, versions, shape of the model and of the work.

    Not the method, the seed, who holds which texts, or the weights: what is compared is computed in one way.
    """
    about = about_this_machine()
    return {
        "machine": {
            **{"processor": processor(), "cores": cores(), "threads": about["threads"]},
            **{"gpu": about["gpu"], "gpus": torch.cuda.device_count(), "memory": memory()},
        },
        "versions": {name: about["versions"][name] for name in ("polyrank", "torch", "transformers", "peft")},
        "model": {
            **config.model.model_dump(mode="json", exclude={"name", "revision"}),
            CONFIGURATION: digests.get(CONFIGURATION),
        },
        "task": config.task.name,
        "training": config.training.model_dump(mode="json", include=set(MATTERS)),
        "work": {
            **{"rank": global_rank(config), "rounds": config.federation.rounds},
            "cohort": cohort_size,
            "examples": round(sum(map(len, examples.values())) / len(examples)),
            **{"texts": digests.get(TEXTS), "max_tokens": config.data.max_tokens},
        },
    }
