"""What the model writes for a few prompts of the test set, before the first round and after the last."""

from __future__ import annotations

import logging

import numpy as np

from polyrank.core.adapter import Adapter
from polyrank.core.errors import RunFolderError
from polyrank.core.seeds import numpy_generator
from polyrank.core.state import ServerState
from polyrank.data.sampling import stratified
from polyrank.federation.evaluation import first_model
from polyrank.federation.server import Server
from polyrank.runs.answers import answers
from polyrank.runs.folder import RunFolder
from polyrank.tasks.task import Examples

log = logging.getLogger(__name__)

NAME = "samples"
"""Of the file: ``{"samples": [{"prompt", "reference", "before", "after"}, ...]}``."""


def begin(server: Server, state: ServerState, folder: RunFolder) -> None:
    """Write the prompts, what the test set answers, and what the base answers."""
    chosen = _chosen(server)
    if not len(chosen):
        return
    task, tokenizer = server.site.task, server.site.resident.base.tokenizer
    texts = _written(server, chosen, state.adapter, None)
    rows = []
    for i, before in enumerate(texts):
        opening, answer = task.asked(chosen, i)
        prompt, reference = (tokenizer.decode(ids, skip_special_tokens=True) for ids in (opening, answer))
        rows.append({"prompt": prompt, "reference": reference, "before": before})
    folder.write_json(NAME, {NAME: rows})


def finish(server: Server, state: ServerState, folder: RunFolder) -> None:
    """Add what the trained model answers; where clients have models of their own, the first one of the last round."""
    chosen = _chosen(server)
    try:
        rows = folder.read_json(NAME)[NAME] if len(chosen) else []
    except (RunFolderError, KeyError):
        log.warning("%s has no samples from before the first round, and none from after the last", folder.path)
        return
    if not rows:
        return
    model = first_model(server, state)
    texts = _written(server, chosen, model.adapter, model.base_change)
    folder.write_json(NAME, {NAME: [{**row, "after": text} for row, text in zip(rows, texts, strict=False)]})


def _chosen(server: Server) -> Examples:
    """Test examples, of every kind where there are kinds; none where the task is not to write."""
    site, count = server.site, server.config.evaluation.samples
    if not site.task.writes:
        count = 0
    kinds = np.zeros(len(site.test), dtype=np.int64) if site.test.kinds is None else site.test.kinds
    return site.test.subset(stratified(kinds, count, numpy_generator(server.config.federation.seed, "samples")))


def _written(server: Server, chosen: Examples, adapter: Adapter, base_change: Adapter | None) -> list[str]:
    resident, task = server.site.resident, server.site.task
    resident.install(adapter, base_change)
    openings = [task.asked(chosen, i)[0].tolist() for i in range(len(chosen))]
    return [one.text for one in answers(resident, task, openings, server.config.evaluation.sample_tokens)]
