"""A federation from its first round to its last on this machine."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from polyrank.config import Config
from polyrank.errors import RunFolderError
from polyrank.federation import checkpoint
from polyrank.federation.evaluation import rank_groups
from polyrank.federation.job import job
from polyrank.federation.listener import Listener, Listeners
from polyrank.federation.metrics import round_metrics, summarise
from polyrank.federation.round import (
    cohort,
    global_model,
    personalise,
    read_outs,
    with_ranks,
)
from polyrank.federation.run_folder import RunFolder, about_this_machine, disk_errors, fingerprint, resolved_as
from polyrank.federation.scoring import Scores, score_clients
from polyrank.federation.setup import Federation, build
from polyrank.federation.trackers import Trackers
from polyrank.federation.tree import RoundResult, aggregate
from polyrank.hf import peft_folder
from polyrank.state import ClientUpdate, ServerState
from polyrank.training.job import Job
from polyrank.training.profile import PHASES

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
    place: Callable[[Federation], Federation] | None = None,
) -> dict[str, Any]:
    """Run a federation on this machine and return what ``summary.json`` holds.

    Args:
        config: what to run; `polyrank.load_config` reads one.
        out: the run folder.
        resume: continue the run in ``out``; ``config`` must be that run's (`saved_config`), but for its length, its
            evaluation and its output.
        overwrite: replace a run in ``out``.
        profile: book where the time goes: ``time/...`` in metrics.jsonl, ``time`` in summary.json.
        listener: told of progress.
        scores: results of the scoring rounds of other runs (see `polyrank.federation.scoring`); they are used and added
            to, so that runs that would score the same clients in the same way do it once.
        place: what changes the federation before it starts, where clients are not on this machine.

    Raises:
        PolyRankError: the configuration, the data, the model or the folder does not fit.
    """
    folder = RunFolder(Path(out))
    state: ServerState | None = None
    if resume:  # a missing or foreign checkpoint is an error before the work, not after
        config = resolved_as(config, folder.read_config())
        state = checkpoint.load(folder.checkpoint, fingerprint(config))
    else:
        folder.check_free(overwrite=overwrite)
    listeners = [listener] if listener else []
    if config.output.trackers:
        listeners.append(Trackers(config.output.trackers, config.output.project, folder.path))
    federation = build(config, profile=profile)
    try:
        federation = place(federation) if place else federation
        runner = Runner(federation, folder, Listeners(listeners))
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
        listener: told of progress.
    """

    federation: Federation
    folder: RunFolder
    listener: Listener

    def start(self, *, overwrite: bool = False, scores: Scores | None = None) -> ServerState:
        """Begin a new run: write the configuration, score clients where the policy asks for it, save round 0.

        Raises:
            RunFolderError: the folder holds another run.
        """
        self.folder.create(overwrite=overwrite)
        self.folder.write_config(self.federation.config)
        about = {
            "labels": list(self.federation.labels),
            "head_modules": list(self.federation.resident.base.head_modules),
            **about_this_machine(),
        }
        self.folder.write_json("run", about)
        state = self.federation.initial_state()
        self.listener.on_start(self.federation, state)
        state, clients = score_clients(self.federation, state, self.listener, {} if scores is None else scores)
        self.folder.write_json("clients", clients)
        self._save(state)
        return state

    def resume(self, state: ServerState) -> ServerState:
        """Go on from a state that was saved in the folder, with new clients at the ranks that the policy starts with.

        Raises:
            RunFolderError: more rounds are done than are asked for.
        """
        rounds = self.federation.config.federation.rounds
        if state.round > rounds:
            raise RunFolderError(
                f"{self.folder.path} holds {state.round} finished rounds and federation.rounds is {rounds}; expected "
                f"{state.round} or more"
            )
        self.folder.drop_metrics_after(state.round)
        self.folder.write_config(self.federation.config)
        if new := set(self.federation.clients) - state.ranks.keys():
            started = self.federation.initial_state()
            ranks = {**state.ranks, **{client: started.ranks[client] for client in new}}
            state = with_ranks(state, ranks, {**state.scales, **{client: started.scales[client] for client in new}})
        self.listener.on_start(self.federation, state)
        return state

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
            self.listener.on_client("training", len(updates), len(jobs))
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
        self.listener.on_round(metrics)
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
            checkpoint.save(self.folder.checkpoint, state, fingerprint(self.federation.config))
        self.listener.on_saved(state.round)

    def _finish(self, state: ServerState, heads: tuple[str, ...]) -> None:
        federation = self.federation
        if keeps := sorted(federation.parts(max(state.round, 1)).keeps):
            log.warning("%s of every client stays with it; adapter/ holds what is shared", " and ".join(keeps))
        with disk_errors(self.folder.adapter):
            peft_folder.write(self.folder.adapter, global_model(state), self.folder.target())
        summary = summarise(self.folder.read_metrics(), self.folder.read_json("clients"), federation)
        if federation.config.evaluation.rank_groups:
            groups = rank_groups(federation, state, heads)
            clients = list(state.ranks.values())
            summary["rank_groups"] = [
                {"rank": rank, "clients": clients.count(rank), **asdict(scores)} for rank, scores in groups.items()
            ]
        self.folder.write_json("summary", summary)
        self.listener.on_end(summary)
