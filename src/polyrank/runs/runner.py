"""A federation from its first round to its last on this machine."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from polyrank.aggregation import Download
from polyrank.config import Config
from polyrank.core.machine import about_this_machine
from polyrank.core.state import ClientUpdate, ServerState
from polyrank.federation.evaluation import rank_groups, score_global
from polyrank.federation.metrics import Played, line_of, summarise, untrained_line
from polyrank.federation.round import global_model, with_ranks
from polyrank.federation.scoring import Known, score_clients
from polyrank.federation.server import Server
from polyrank.federation.tree import RoundResult
from polyrank.hf.peft import folder as peft_folder
from polyrank.runs import checkpoint, samples, secret
from polyrank.runs.agreement import Asked, fingerprint
from polyrank.runs.folder import RunFolder, disk_errors
from polyrank.runs.giving import beside, for_servers
from polyrank.runs.listener import Listener, Listeners
from polyrank.runs.lock import held
from polyrank.runs.models import stay_with_clients
from polyrank.runs.notebook import Live, in_notebook
from polyrank.runs.opening import opening
from polyrank.runs.pace import Pace
from polyrank.runs.patience import is_spent
from polyrank.runs.resume import check_goes_on, lines_until
from polyrank.tasks.metric import is_due

log = logging.getLogger(__name__)


def run(
    config: Config,
    out: Path | str,
    *,
    resume: bool = False,
    overwrite: bool = False,
    profile: bool = False,
    listener: Listener | None = None,
    scores: Known | None = None,
    requested: Config | None = None,
    over: Callable[[Server], Server] | None = None,
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
        listener: told of progress; what it raises does not end the run (see `Listener`). In a notebook one that shows
            a table and a curve under the cell, unless another is given.
        scores: results of the scoring rounds of other runs (see `polyrank.federation.scoring`); they are used and added
            to, so that runs that would score the same clients in the same way do it once.
        requested: what was asked for, where ``config`` has more of it settled; what a later call is compared with.
        over: what changes the server before it starts, where clients are not on this machine.

    Raises:
        PolyRankError: the configuration, the data, the model or the folder does not fit.
    """
    pace, folder = Pace(), RunFolder(Path(out))
    with contextlib.ExitStack() as stack:
        if there := folder.exists():
            stack.enter_context(held(folder.path))
        with pace.stage("loading"):
            opened = opening(config, out, resume=resume, overwrite=overwrite, profile=profile, requested=requested)
        server, state = opened.server, opened.state
        if listener is None and in_notebook():
            listener = Live()
        listeners = Listeners([*opened.trackers, *([listener] if listener else [])])
        try:
            if not there:  # nothing was written before everything was checked
                stack.enter_context(held(folder.path))
            server = over(server) if over else server
            runner = Runner(server, folder, listeners, opened.requested, pace)
            begun = runner.start(overwrite=overwrite, scores=scores) if state is None else runner.resume(state)
            runner.run(begun)
        finally:
            server.close()
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
        server: what is run.
        folder: where results go.
        listeners: told of progress.
        requested: what was asked for; by default the server's own configuration.
        pace: how long it takes.
    """

    server: Server
    folder: RunFolder
    listeners: Listeners
    requested: Config | None = None
    pace: Pace = field(default_factory=Pace)

    def start(self, *, overwrite: bool = False, scores: Known | None = None) -> ServerState:
        """Begin a new run: write the configuration, score clients where the policy asks for it, save round 0.

        Raises:
            RunFolderError: the folder holds another run.
        """
        self.folder.create(overwrite=overwrite)
        self.folder.write_config(self._asked())
        secret.keep(self.folder.path, self.server.secret)
        site = self.server.site
        labels, outputs = list(site.labels), list(site.outputs)
        about = {
            "task": self.server.config.task.name,
            "labels": labels,
            **({} if outputs == labels else {"outputs": outputs}),
            "head_modules": list(site.resident.base.head_modules),
            "digests": dict(site.digests),
            "wire": self.server.engine.wire,
            "stay_with_clients": list(stay_with_clients(self.server.config)),
            **about_this_machine(),
        }
        self.folder.write_json("run", about)
        state = self.server.initial_state()
        self.listeners.on_start(self.server, state)
        with self.pace.stage("scoring"):
            self._measure_untrained(state)
            state, clients = score_clients(
                self.server, state, partial(self.listeners.on_client, "scoring"), {} if scores is None else scores
            )
        self.folder.write_json("clients", clients)
        self._save(state)
        return state

    def _measure_untrained(self, state: ServerState) -> None:
        """Measure the base as it is, and let it write samples, where the task is to write."""
        if not self.server.site.task.writes:
            return
        start = time.perf_counter()
        scores = self.server.site.by_kind(state.adapter, state.base_change)
        line = {**untrained_line(scores), "seconds": round(time.perf_counter() - start, 4)}
        self.folder.append_metrics(line)
        self.listeners.on_untrained(line)
        samples.begin(self.server, state, self.folder)

    def resume(self, state: ServerState) -> ServerState:
        """Go on from a state that was saved in the folder, with new clients at the ranks that the policy starts with.

        Raises:
            RunFolderError: more rounds are done than are asked for, or the labels or their order are others.
        """
        check_goes_on(self.server, self.folder, state)
        self.folder.write_metrics(lines_until(self.server, self.folder, state))
        self.folder.write_config(self._asked())
        secret.keep(self.folder.path, self.server.secret)
        if new := set(self.server.clients) - state.ranks.keys():
            started = self.server.initial_state()
            ranks = {**state.ranks, **{client: started.ranks[client] for client in new}}
            state = with_ranks(state, ranks, {**state.scales, **{client: started.scales[client] for client in new}})
        self.listeners.on_start(self.server, state)
        return state

    def _asked(self) -> Asked:
        return Asked(self.requested or self.server.config, self.server.config)

    def run(self, state: ServerState) -> ServerState:
        """All rounds that are left, or until patience is spent; then the adapter and the summary are written."""
        while state.round < self.server.config.federation.rounds and not self._ends_early(state):
            state = self.step(state)
        self._finish(state)
        return state

    def _ends_early(self, state: ServerState) -> bool:
        patience = self.server.config.evaluation.patience
        if patience is None or state.round == 0:
            return False
        return is_spent(self.folder.read_metrics(), self.server.site.task.primary, patience)

    def step(self, state: ServerState) -> ServerState:
        """One round: read out, train, aggregate, evaluate, save."""
        start = time.perf_counter()
        server, number, clock = self.server, state.round + 1, self.server.site.clock
        clock.take()
        sent, starts, works = server.ask(state)
        progress = partial(self.listeners.on_client, "training")
        gathered = server.gather(server, state, works, sent, progress)
        outcomes, updates, result = gathered.outcomes, gathered.updates, gathered.result
        for client, reason in result.dropped.items():
            log.warning("round %d: %s is left out: %s", number, client, reason)
        measuring = time.perf_counter()
        with clock("evaluation"):
            due = is_due(number, server.config.evaluation.every, server.config.federation.rounds)
            scores = score_global(server, result.state, list(sent)) if due else None
            metrics = line_of(server, Played(state, sent, outcomes, updates, result, gathered.owned), scores)
        measuring = time.perf_counter() - measuring
        after = self._adapt_ranks(state, starts, updates, result)
        seconds = time.perf_counter() - start
        self.pace.played(seconds, measuring, measured=due)
        metrics["seconds"] = round(seconds, 4)
        metrics |= {f"time/{phase}": round(booked, 4) for phase, booked in clock.shared_out(seconds).items()}
        self.folder.append_metrics(metrics)
        self._save(after)
        self.listeners.on_time_left(self.pace.left(after, server.config))
        self.listeners.on_round(metrics)
        return after

    def _adapt_ranks(
        self, state: ServerState, starts: Mapping[str, Download], updates: Sequence[ClientUpdate], result: RoundResult
    ) -> ServerState:
        """The state after the round, with the ranks that the policy makes of it.

        A client judges itself, so what it has counts, not what it sent.
        """
        server = self.server
        if not server.policy.prunes:
            return result.state
        good = [update for update in updates if update.client not in result.dropped]
        started = {client: start.adapter for client, start in starts.items()}
        adapted = server.policy.adapt(state.ranks, started, good)
        return with_ranks(result.state, adapted, server.scales(adapted))

    def _save(self, state: ServerState) -> None:
        with disk_errors(self.folder.checkpoint), self.pace.stage("saving"):
            checkpoint.save(self.folder.checkpoint, state, fingerprint(self.server.config, self.server.site.digests))
        self.listeners.on_saved(state.round)

    def _finish(self, state: ServerState) -> None:
        with self.pace.stage("closing"):
            summary = self._closed(state)
        if "time" in summary:
            summary["time"] = self.pace.whole(summary["time"])
        self.folder.write_json("summary", summary)
        secret.forget(self.folder.path)
        self.listeners.on_end(summary)
        if missed := self.listeners.missed():
            self.folder.write_json("summary", {**summary, **missed})

    def _closed(self, state: ServerState) -> dict[str, Any]:
        """Write the adapter and the samples, and measure the rank groups; what summary.json holds."""
        server, lines = self.server, self.folder.read_metrics()
        stay = stay_with_clients(server.config)
        if stay:
            log.warning(
                "each client keeps its own %s; adapter/ holds what is shared, export --client NAME writes a client's",
                " and ".join(stay),
            )
        with disk_errors(self.folder.adapter):
            if stay:
                peft_folder.write_shared(self.folder.adapter, global_model(state), stay)
            else:
                base, task = server.site.resident.base, server.site.task
                given = for_servers(global_model(state), task, self.folder.adapter)
                around = beside(task, base.tokenizer, base.model)
                peft_folder.write(self.folder.adapter, given, self.folder.target(), around)
        summary = summarise(lines, self.folder.read_json("clients"), server, self.folder.read_untrained())
        if state.round < server.config.federation.rounds:
            summary["stopped_early"] = state.round
        samples.finish(server, state, self.folder)
        if server.config.evaluation.rank_groups:
            groups = rank_groups(server, state, lines[-1]["clients"])
            clients = list(state.ranks.values())
            summary["rank_groups"] = [
                {"rank": rank, "clients": clients.count(rank), **scores} for rank, scores in groups.items()
            ]
        return summary
