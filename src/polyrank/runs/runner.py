"""A federation from its first round to its last on this machine."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from polyrank.config import Config
from polyrank.core.errors import RunFolderError
from polyrank.core.state import ClientUpdate, ServerState
from polyrank.federation.evaluation import rank_groups
from polyrank.federation.job import job
from polyrank.federation.metrics import round_metrics, summarise
from polyrank.federation.round import (
    cohort,
    global_model,
    personalise,
    read_outs,
    with_ranks,
)
from polyrank.federation.scoring import Scores, score_clients
from polyrank.federation.setup import Federation, build
from polyrank.federation.tree import RoundResult, aggregate
from polyrank.hf.peft import folder as peft_folder
from polyrank.runs import checkpoint
from polyrank.runs.agreement import Asked, fingerprint
from polyrank.runs.folder import RunFolder, about_this_machine, disk_errors
from polyrank.runs.listener import Listener, Listeners
from polyrank.runs.models import stay_with_clients
from polyrank.runs.resume import check_same, lines_until
from polyrank.runs.trackers import trackers
from polyrank.training.profile import PHASES
from polyrank.training.work import Job

log = logging.getLogger(__name__)


def run(
    config: Config,
    out: Path | str,
    *,
    resume: bool = False,
    overwrite: bool = False,
    profile: bool = False,
    listener: Listener | None = None,
    scores: Scores | None = None,
    requested: Config | None = None,
    place: Callable[[Federation], Federation] | None = None,
) -> dict[str, Any]:
    """Run a federation on this machine and return what ``summary.json`` holds.

    Args:
        config: what to run; `polyrank.load_config` reads one.
        out: the run folder.
        resume: continue the run in ``out``; ``config`` must be what was asked for then or what it was resolved to
            (`saved_config`), but for its length, its evaluation and its output, and data and model must hold what they
            held.
        overwrite: replace a run in ``out``.
        profile: book where the time goes: ``time/...`` in metrics.jsonl, ``time`` in summary.json.
        listener: told of progress; what it raises does not end the run (see `Listener`).
        scores: results of the scoring rounds of other runs (see `polyrank.federation.scoring`); they are used and added
            to, so that runs that would score the same clients in the same way do it once.
        requested: what was asked for, where ``config`` has more of it settled; what a later call is compared with.
        place: what changes the federation before it starts, where clients are not on this machine.

    Raises:
        PolyRankError: the configuration, the data, the model or the folder does not fit.
    """
    folder = RunFolder(Path(out))
    asked, record, state = Asked(requested or config, config), None, None
    if resume:  # a missing or foreign checkpoint is an error before the work, not after
        asked, record = folder.read_asked().agreed(asked.requested, folder.path), folder.record()
        state = checkpoint.load(folder.checkpoint, fingerprint(asked.resolved, record.digests))
    else:
        folder.check_free(overwrite=overwrite)
    output = config.output
    listeners = Listeners([*trackers(output.trackers, output.project, folder.path), *([listener] if listener else [])])
    check = partial(record.check, config=asked.resolved, python=platform.python_version()) if record else None
    federation = build(asked.resolved, profile=profile, check=check)
    try:
        federation = place(federation) if place else federation
        runner = Runner(federation, folder, listeners, asked.requested)
        begun = runner.start(overwrite=overwrite, scores=scores) if state is None else runner.resume(state)
        runner.run(begun)
    finally:
        federation.close()
    summary: dict[str, Any] = folder.read_json("summary")
    return summary


def saved_config(out: Path | str) -> Config:
    """The configuration of the run in a folder, with everything resolved.

    Raises:
        RunFolderError: there is no run.
    """
    return RunFolder(Path(out)).read_config()


@dataclass(frozen=True, eq=False)
class Runner:
    """Runs rounds and keeps the run folder up to date.

    Args:
        federation: what is run.
        folder: where results go.
        listeners: told of progress.
        requested: what was asked for; by default the federation's own configuration.
    """

    federation: Federation
    folder: RunFolder
    listeners: Listeners
    requested: Config | None = None

    def start(self, *, overwrite: bool = False, scores: Scores | None = None) -> ServerState:
        """Begin a new run: write the configuration, score clients where the policy asks for it, save round 0.

        Raises:
            RunFolderError: the folder holds another run.
        """
        self.folder.create(overwrite=overwrite)
        self.folder.write_config(self._asked())
        labels, outputs = list(self.federation.labels), list(self.federation.outputs)
        about = {
            "task": self.federation.config.task.name,
            "labels": labels,
            **({} if outputs == labels else {"outputs": outputs}),
            "head_modules": list(self.federation.resident.base.head_modules),
            "digests": dict(self.federation.digests),
            "wire": self.federation.engine.wire,
            "stay_with_clients": list(stay_with_clients(self.federation.config)),
            **about_this_machine(),
        }
        self.folder.write_json("run", about)
        state = self.federation.initial_state()
        self.listeners.on_start(self.federation, state)
        state, clients = score_clients(
            self.federation, state, partial(self.listeners.on_client, "scoring"), {} if scores is None else scores
        )
        self.folder.write_json("clients", clients)
        self._save(state)
        return state

    def resume(self, state: ServerState) -> ServerState:
        """Go on from a state that was saved in the folder, with new clients at the ranks that the policy starts with.

        Raises:
            RunFolderError: more rounds are done than are asked for, or the labels or their order are others.
        """
        rounds = self.federation.config.federation.rounds
        if state.round > rounds:
            raise RunFolderError(
                f"{self.folder.path} holds {state.round} finished rounds and federation.rounds is {rounds}; expected "
                f"{state.round} or more"
            )
        check_same(self.federation, self.folder)
        self.folder.write_metrics(lines_until(self.federation, self.folder, state))
        self.folder.write_config(self._asked())
        if new := set(self.federation.clients) - state.ranks.keys():
            started = self.federation.initial_state()
            ranks = {**state.ranks, **{client: started.ranks[client] for client in new}}
            state = with_ranks(state, ranks, {**state.scales, **{client: started.scales[client] for client in new}})
        self.listeners.on_start(self.federation, state)
        return state

    def _asked(self) -> Asked:
        return Asked(self.requested or self.federation.config, self.federation.config)

    def run(self, state: ServerState) -> ServerState:
        """All rounds that are left; then the adapter and the summary are written."""
        last = self._cohort(max(state.round, 1))
        while state.round < self.federation.config.federation.rounds:
            state = self.step(state)
            last = self._cohort(state.round)
        self._finish(state, last)
        return state

    def step(self, state: ServerState) -> ServerState:
        """One round: read out, train, aggregate, evaluate, save."""
        start = time.perf_counter()
        federation, number, clock = self.federation, state.round + 1, self.federation.clock
        clock.take()
        clients = self._cohort(number)
        sent = read_outs(state, clients, federation.method)
        jobs = [job(federation, state, client, number, personalise(state, client, sent[client])) for client in clients]
        updates: list[ClientUpdate] = []
        for update in federation.engine.train(jobs):
            updates.append(update)
            self.listeners.on_client("training", len(updates), len(jobs))
        with clock("aggregation"):
            result = aggregate(
                state,
                updates,
                federation.method,
                uniform=federation.config.aggregation.weights == "uniform",
                local_head=federation.local_head,
                sent=sent,
            )
        result = replace(result, dropped={**federation.engine.failures(), **result.dropped})
        for client, reason in result.dropped.items():
            log.warning("round %d: %s is left out: %s", number, client, reason)
        with clock("evaluation"):
            metrics = round_metrics(federation, state, updates, result, sent)
        after = self._adapt_ranks(state, jobs, updates, result)
        seconds = time.perf_counter() - start
        metrics["seconds"] = round(seconds, 4)
        if clock.running:
            booked = clock.take()
            booked["overhead"] = max(seconds - sum(booked.values()), 0.0)
            metrics |= {f"time/{phase}": round(booked.get(phase, 0.0), 4) for phase in PHASES}
        self.folder.append_metrics(metrics)
        self._save(after)
        self.listeners.on_round(metrics)
        return after

    def _cohort(self, number: int) -> tuple[str, ...]:
        options = self.federation.config.federation
        return cohort(self.federation.clients, options.participation, options.seed, number)

    def _adapt_ranks(
        self, state: ServerState, jobs: list[Job], updates: list[ClientUpdate], result: RoundResult
    ) -> ServerState:
        """The state after the round, with the ranks that the policy makes of it.

        A client judges itself, so what it has counts, not what it sent.
        """
        federation = self.federation
        if not federation.policy.prunes:
            return result.state
        good = [update for update in updates if update.client not in result.dropped]
        started = {job.client: job.adapter for job in jobs}
        adapted = federation.policy.adapt(state.ranks, started, good)
        return with_ranks(result.state, adapted, federation.scales(adapted))

    def _save(self, state: ServerState) -> None:
        with disk_errors(self.folder.checkpoint):
            checkpoint.save(self.folder.checkpoint, state, fingerprint(self.federation.config, self.federation.digests))
        self.listeners.on_saved(state.round)

    def _finish(self, state: ServerState, heads: tuple[str, ...]) -> None:
        federation = self.federation
        stay = stay_with_clients(federation.config)
        if stay:
            log.warning(
                "each client keeps its own %s; adapter/ holds what is shared, export --client NAME writes a client's",
                " and ".join(stay),
            )
        with disk_errors(self.folder.adapter):
            if stay:
                peft_folder.write_shared(self.folder.adapter, global_model(state), stay)
            else:
                peft_folder.write(self.folder.adapter, global_model(state), self.folder.target())
        summary = summarise(self.folder.read_metrics(), self.folder.read_json("clients"), federation)
        if federation.config.evaluation.rank_groups:
            groups = rank_groups(federation, state, heads)
            clients = list(state.ranks.values())
            summary["rank_groups"] = [
                {"rank": rank, "clients": clients.count(rank), **scores} for rank, scores in groups.items()
            ]
        self.folder.write_json("summary", summary)
        self.listeners.on_end(summary)
        if missed := self.listeners.missed():
            self.folder.write_json("summary", {**summary, **missed})
