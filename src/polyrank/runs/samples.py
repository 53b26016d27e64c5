"""What the model writes for a few prompts of the test set, before the first round and after the last."""

from __future__ import annotations

from polyrank.core.adapter import Adapter
from polyrank.core.errors import RunFolderError
from polyrank.core.state import ServerState
from polyrank.federation.evaluation import first_model
from polyrank.federation.server import Server
from polyrank.runs.answers import answers, drawn, in_words
from polyrank.runs.folder import RunFolder
from polyrank.tasks.task import Examples

NAME = "samples"
"""Of the file: ``{"tokens": N, "samples": [{"prompt", "reference", "before", "after"}, ...]}``."""


def begin(server: Server, state: ServerState, folder: RunFolder) -> None:
    """Write the prompts, what the test set answers, and what the base answers in at most so many tokens."""
    chosen = _chosen(server)
    if len(chosen):
        folder.write_json(NAME, {"tokens": _tokens(server), NAME: _before(server, chosen, state.adapter)})


def finish(server: Server, state: ServerState, folder: RunFolder) -> None:
    """Add what the trained model answers; where clients have models of their own, the first one of the last round.

    What the base answered is asked anew where that was of other prompts or of another length, as before a run went on
    with other settings of its evaluation.
    """
    chosen = _chosen(server)
    if not len(chosen):
        folder.remove_json(NAME)
        return
    rows = _kept(server, chosen, folder) or _before(server, chosen, server.initial_state().adapter)
    model = first_model(server, state)
    texts = _written(server, chosen, model.adapter, model.base_change)
    after = [{**row, "after": text} for row, text in zip(rows, texts, strict=True)]
    folder.write_json(NAME, {"tokens": _tokens(server), NAME: after})


def _tokens(server: Server) -> int:
    return server.config.evaluation.sample_tokens


def _before(server: Server, chosen: Examples, adapter: Adapter) -> list[dict[str, str]]:
    """What is asked and answered, and what the base writes."""
    texts = _written(server, chosen, adapter, None)
    return [{**row, "before": text} for row, text in zip(_asked(server, chosen), texts, strict=True)]


def _asked(server: Server, chosen: Examples) -> list[dict[str, str]]:
    task, tokenizer = server.site.task, server.site.resident.base.tokenizer
    pairs = [in_words(task, tokenizer, chosen, i) for i in range(len(chosen))]
    return [{"prompt": prompt, "reference": reference} for prompt, reference in pairs]


def _kept(server: Server, chosen: Examples, folder: RunFolder) -> list[dict[str, str]]:
    """What was written before the first round, if it was of these prompts and in so many tokens; else nothing."""
    try:
        kept = folder.read_json(NAME)
        rows = [{key: row[key] for key in ("prompt", "reference", "before")} for row in kept[NAME]]
    except (RunFolderError, LookupError, TypeError):
        return []
    asked = [{key: row[key] for key in ("prompt", "reference")} for row in rows]
    return rows if kept.get("tokens") == _tokens(server) and asked == _asked(server, chosen) else []


def _chosen(server: Server) -> Examples:
    """Test examples, of every kind where there are kinds; none where the task is not to write."""
    site = server.site
    count = server.config.evaluation.samples if site.task.writes else 0
    return site.test.subset(drawn(site.test, count, server.config.federation.seed))


def _written(server: Server, chosen: Examples, adapter: Adapter, base_change: Adapter | None) -> list[str]:
    resident, task = server.site.resident, server.site.task
    resident.install(adapter, base_change)
    openings = [task.asked(chosen, i)[0].tolist() for i in range(len(chosen))]
    return [one.text for one in answers(resident, task, openings, server.config.evaluation.sample_tokens)]
