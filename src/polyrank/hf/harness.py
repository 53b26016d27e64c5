"""Benchmarks by EleutherAI's lm-evaluation-harness, where it is installed."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polyrank.core.errors import ConfigError
from polyrank.hf.files import quiet
from polyrank.hf.resident import ResidentModel

PACKAGE = "lm-eval"


def check_installed() -> None:
    """Refuse to begin without the package.

    Raises:
        ConfigError: it is not installed; it is named.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError(f"--harness needs the package {PACKAGE}: pip install {PACKAGE}")


def run(
    resident: ResidentModel, tasks: Sequence[str], *, chat: bool, batch_size: int, limit: int | None
) -> dict[str, dict[str, Any]]:  # Any: numbers, and names of what is measured
    """What whatever is installed comes to: task -> metric -> value.

    Args:
        resident: a model that writes.
        tasks: names of the harness's own, or paths of YAML files.
        chat: whether prompts are written with the tokenizer's chat template.
        batch_size: requests at a time.
        limit: documents of each task; None for all.

    Raises:
        ConfigError: the package is missing, or a task is not known or fails; what it says is passed on.
    """
    check_installed()
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    files = [task.endswith((".yaml", ".yml")) for task in tasks]
    loggers = [logging.getLogger(name) for name in ("lm_eval", "lm-eval")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    resident.model.eval()
    named: Any = resident.model  # Any: a model's methods have no types
    try:
        with resident.computing(), quiet():
            model = HFLM(pretrained=named, tokenizer=resident.base.tokenizer, batch_size=batch_size)
            found = simple_evaluate(
                model=model,
                tasks=[str(Path(task).absolute()) if file else task for task, file in zip(tasks, files, strict=True)],
                task_manager=TaskManager(include_defaults=not all(files)),  # its own are thousands of files to read
                apply_chat_template=chat,
                limit=limit,
                log_samples=False,
                bootstrap_iters=0,
                random_seed=None,
                numpy_random_seed=None,
                torch_random_seed=None,
            )
    except Exception as error:  # tasks are anybody's, and raise whatever they like
        said = " ".join(str(error).split())[:300]
        raise ConfigError(f"--harness {','.join(tasks)}: {type(error).__name__}: {said}") from error
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
    results: dict[str, dict[str, Any]] = (found or {}).get("results", {})
    return {
        task: {name: value for name, value in values.items() if isinstance(value, int | float)}
        for task, values in results.items()
    }
