"""What a run gives away: adapters and models as others load them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyrank.core.adapter import Adapter
from polyrank.core.errors import AdapterError
from polyrank.hf.beside import Beside
from polyrank.hf.peft.portable import portable
from polyrank.tasks import Task

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)


def beside(task: Task, tokenizer: Any, model: nn.Module) -> Beside | None:  # Any: tokenizers have no typed base
    """What lies beside the weights; None of a model that does not write.

    Args:
        task: that was learned.
        tokenizer: the base's.
        model: the base; on the meta device it will do.
    """
    if not task.writes:
        return None
    return Beside(tokenizer, tuple(sorted(task.stops(tokenizer, model))), task.chat_template(tokenizer))


def for_servers(adapter: Adapter, task: Task, folder: Path) -> Adapter:
    """A run's adapter as it is written: of a model that writes so that servers read it right, if its rank allows that.

    Args:
        adapter: of the run.
        task: that was learned.
        folder: where it is written; for the log.
    """
    if not task.writes:
        return adapter
    try:
        return portable(adapter)
    except AdapterError as error:
        log.warning("%s is for PEFT alone: %s", folder, error)
        return adapter
