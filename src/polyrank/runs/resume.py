"""What a run that goes on makes of the folder: as if it had been asked from the start for what is asked for now."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from polyrank.config import ModelConfig
from polyrank.core.errors import RunFolderError
from polyrank.core.state import ServerState
from polyrank.federation.evaluation import score_global
from polyrank.federation.metrics import named
from polyrank.federation.server import Server
from polyrank.hf.digest import TEMPLATE, model_digests
from polyrank.runs.agreement import differences
from polyrank.runs.folder import RunFolder
from polyrank.runs.shapes import check_played
from polyrank.tasks.metric import TEST, is_due, is_evaluated

log = logging.getLogger(__name__)


def check_goes_on(server: Server, folder: RunFolder, state: ServerState) -> None:
    """Refuse to go on from a state that has more rounds than are asked for, and what `check_same` refuses.

    Raises:
        RunFolderError: it does not go on.
    """
    rounds = server.config.federation.rounds
    if state.round > rounds:
        raise RunFolderError(
            f"{folder.path} holds {state.round} finished rounds and federation.rounds is {rounds}; expected "
            f"{state.round} or more"
        )
    check_same(server, folder)


def check_same(server: Server, folder: RunFolder) -> None:
    """Refuse what would go on in another way, and say which clients' data are not what they were.

    Data on this machine are compared by their digests before. A site's data are its own and may grow from one day to
    the next, so all that is known of them is how many examples, and of each label, the site says that it has.

    Raises:
        RunFolderError: the classes have another order, or tensors would travel in another dtype.
    """
    about, wire = folder.read_json("run"), server.engine.wire
    if about["labels"] != list(server.site.labels) or about.get("outputs", about["labels"]) != list(
        server.site.outputs
    ):
        raise RunFolderError(
            f"{folder.path}: the classes were {', '.join(about['labels'])} and are {', '.join(server.site.labels)}; a "
            "head knows them by their order, so start a new run with another --out"
        )
    if about.get("wire", wire) != wire:
        raise RunFolderError(
            f"{folder.path}: tensors travelled as {about['wire']} and would travel as {wire}; go on with wire = "
            f"{about['wire']!r}, or start a new run with another out"
        )
    saved, population = folder.read_json("clients")["clients"], server.population
    for client in server.clients:
        before, now = saved.get(client, {}).get("labels"), list(population.labels[client])
        if before is not None and before != now:
            log.warning("%s had %s examples of the labels when the run began, and has %s now", client, before, now)
            continue
        had, has = saved.get(client, {}).get("examples"), population.sizes[client]
        if had is not None and had != has:
            log.warning("%s had %s examples when the run began, and has %s now", client, had, has)


def check_model(folder: RunFolder, model: ModelConfig | None = None) -> None:
    """Refuse a base that is not the one under which a run's adapter was trained; an earlier version's run does not say.

    Args:
        folder: of the run.
        model: the base; by default where the run says that it is.

    Raises:
        RunFolderError: weights, configuration or vocabulary changed.
    """
    kept, model = folder.read_json("run").get("digests"), model or folder.read_config().model
    if not isinstance(kept, dict):
        return
    found = model_digests(model, writes=TEMPLATE in kept)
    if changed := differences({name: kept.get(name, "none") for name in found}, found):
        raise RunFolderError(
            f"{folder.path}: the base {model.name} changed since the run was made: {'; '.join(changed)}. The adapter "
            "belongs to the old one; put that back"
        )


def lines_until(server: Server, folder: RunFolder, state: ServerState) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl up to the state's round, as an uninterrupted run of the asked length has them.

    Lines of rounds whose checkpoint was never finished are left out; the last round of all is evaluated if it was not.

    Raises:
        RunFolderError: as `on_schedule`; the line of a round is missing; or clients have shrunk since the last round,
            and it is their own models that were to be measured after it.
    """
    rounds, every = server.config.federation.rounds, server.config.evaluation.every
    found = folder.read_lines()
    lines = [line for line in found if 0 < line["round"] <= state.round]
    missing = 0 if server.site.task.writes and not found else len(lines) + 1
    if missing <= state.round:  # a round's line is on disk before its checkpoint
        raise RunFolderError(
            f"{folder.metrics} has no line of round {missing}, and the checkpoint is of round {state.round}: "
            "the file was changed; put back what was there, or replace the run: polyrank run --overwrite"
        )
    check_played(folder.metrics, lines)
    before, lines = lines, on_schedule(lines, every, rounds)
    if left_out := [str(old["round"]) for old, new in zip(before, lines, strict=True) if old.keys() != new.keys()]:
        log.warning(
            "%s: the scores of round %s are left out, since a run of %d rounds with evaluation.every %d has none there",
            folder.path,
            ", ".join(left_out),
            rounds,
            every,
        )
    if lines and lines[-1]["round"] == rounds and not is_evaluated(lines[-1]):
        if server.policy.prunes and server.parts(rounds).keeps:
            raise RunFolderError(
                f"round {rounds} was not evaluated before its clients shrank; raise federation.rounds to go on"
            )
        scores = score_global(server, state, server.cohort(rounds))
        lines[-1] = {"round": rounds, **named(scores), **lines[-1]}
    return lines


def on_schedule(lines: Sequence[Mapping[str, Any]], every: int, rounds: int) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl as an uninterrupted run of so many rounds would have them.

    Where it would not have evaluated, as in the last round of a run that was made longer, the scores are left out:
    figures over the evaluated rounds ("end", "area") are then of the same rounds.

    Raises:
        RunFolderError: a round was not evaluated that would have been; only the last one's state is still there.
    """
    missing = [
        line["round"]
        for line in lines
        if is_due(line["round"], every, rounds) and line["round"] != rounds and not is_evaluated(line)
    ]
    if missing:
        raise RunFolderError(
            f"round {missing[0]} was not evaluated, and with evaluation.every {every} it would have been; go on with "
            "the evaluation.every that the run had, or start a new run with another --out"
        )
    return [
        {key: value for key, value in line.items() if is_due(line["round"], every, rounds) or not key.startswith(TEST)}
        for line in lines
    ]
