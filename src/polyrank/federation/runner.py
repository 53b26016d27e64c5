"""A federation from its first round to its last on this machine."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from polyrank.aggregation.diagnostics import aggregation_error, owners_weight
from polyrank.config import Config
from polyrank.errors import RunFolderError
from polyrank.federation import checkpoint
from polyrank.federation.evaluation import rank_groups, score, score_global
from polyrank.federation.listener import Listener, Listeners
from polyrank.federation.round import RoundResult, aggregate, cohort, personalise, read_out, without_head
from polyrank.federation.run_folder import RunFolder, about_this_machine, disk_errors, fingerprint, resolved_as
from polyrank.federation.setup import Federation, build
from polyrank.federation.trackers import Trackers
from polyrank.hf import peft_folder
from polyrank.seeds import derive
from polyrank.state import ClientUpdate, ServerState
from polyrank.training.job import Job

log = logging.getLogger(__name__)


def run(
    config: Config,
    out: Path | str,
    *,
    resume: bool = False,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> dict[str, Any]:
    """Run a federation on this machine and return what ``summary.json`` holds.

    Args:
        config: what to run; `polyrank.load_config` reads one.
        out: the run folder.
        resume: continue the run in ``out``; ``config`` must be that run's (`saved_config`), but for its length, its
            evaluation and its output.
        overwrite: replace a run in ``out``.
        listener: told of progress.

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
    runner = Runner(build(config), folder, Listeners(listeners))
    if state is None:
        state = runner.start(overwrite=overwrite)
    else:
        runner.resume(state)
    runner.run(state)
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

    def start(self, *, overwrite: bool = False) -> ServerState:
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
        state = self._score_clients(state)
        self._save(state)
        return state

    def resume(self, state: ServerState) -> None:
        """Go on from a state that was saved in the folder.

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
        self.listener.on_start(self.federation, state)

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
        federation, number = self.federation, state.round + 1
        clients = self._cohort(number)
        jobs = [self._job(state, client, number) for client in clients]
        updates: list[ClientUpdate] = []
        for update in federation.engine.train(jobs):
            updates.append(update)
            self.listener.on_client("training", len(updates), len(jobs))
        local_head = self._local_head
        result = aggregate(
            state,
            updates,
            federation.method,
            uniform=federation.config.aggregation.weights == "uniform",
            local_head=local_head,
        )
        for client, reason in result.dropped.items():
            log.warning("round %d: %s is left out: %s", number, client, reason)
        metrics = self._measure(state, updates, result, clients)
        metrics["seconds"] = round(time.perf_counter() - start, 4)
        self.folder.append_metrics(metrics)
        self._save(result.state)
        self.listener.on_round(metrics)
        return result.state

    @property
    def _local_head(self) -> bool:
        return self.federation.config.federation.head == "local"

    def _cohort(self, number: int) -> tuple[str, ...]:
        options = self.federation.config.federation
        return cohort(self.federation.clients, options.participation, options.seed, number)

    def _job(self, state: ServerState, client: str, number: int) -> Job:
        examples = self.federation.examples[client]
        adapter = personalise(state, client, read_out(state, client, local_head=self._local_head))
        seed = derive(self.federation.config.federation.seed, "training", number, client)
        return Job(client, adapter, examples, float(len(examples)), seed)

    def _measure(
        self, state: ServerState, updates: list[ClientUpdate], result: RoundResult, clients: tuple[str, ...]
    ) -> dict[str, Any]:
        config, after = self.federation.config, result.state
        sent = [read_out(state, client, local_head=self._local_head) for client in clients]
        back = [without_head(u) if self._local_head else u for u in updates]
        metrics: dict[str, Any] = {"round": after.round}
        if after.round % config.evaluation.every == 0 or after.round == config.federation.rounds:
            scores = score_global(self.federation, after, after.adapter, clients)
            metrics |= {f"test/{name}": value for name, value in asdict(scores).items()}
        metrics |= {
            "train/loss": _mean([u.metrics["loss"] for u in updates if u.client not in result.dropped]),
            "bytes/up": sum(u.adapter.nbytes for u in back),
            "bytes/down": sum(adapter.nbytes for adapter in sent),
            "rows/owners_weight": owners_weight(result.used, after.adapter.rank),
            "clients": list(clients),
            "dropped": dict(result.dropped),
            **{f"aggregation/{name}": value for name, value in result.metrics.items()},
        }
        if config.evaluation.aggregation_error and any(update.weight > 0 for update in result.used):
            metrics["aggregation/error"] = aggregation_error(result.used, after.adapter).total
        return metrics

    def _score_clients(self, state: ServerState) -> ServerState:
        """The rank policy's scoring round: every client trains once at its first rank; nothing is aggregated."""
        federation = self.federation
        table: dict[str, dict[str, Any]] = {
            client: {
                "rank": state.ranks[client],
                "examples": len(federation.examples[client]),
                "group": federation.partition.groups.get(client),
            }
            for client in federation.clients
        }
        scoring = {"bytes/up": 0, "bytes/down": 0}
        if federation.validation is not None and len(federation.config.ranks.levels) > 1:
            losses: dict[str, float] = {}
            jobs = [self._job(state, client, 0) for client in federation.clients]
            for update in federation.engine.train(jobs):
                sent = read_out(state, update.client, local_head=self._local_head)
                scoring["bytes/down"] += sent.nbytes
                scoring["bytes/up"] += update.adapter.nbytes  # a local head too: the server scores the whole model
                loss = score(federation, update.adapter, federation.validation).loss
                if not math.isfinite(loss):
                    log.warning("scoring: %s has the validation loss %s and comes last", update.client, loss)
                losses[update.client] = loss
                self.listener.on_client("scoring", len(losses), len(jobs))
            ranks = federation.policy.assign(state.ranks, losses)
            state = replace(state, ranks=ranks, scales=federation.scales(ranks))
            for client, loss in losses.items():
                table[client] |= {"rank": ranks[client], "validation_loss": loss}
        self.folder.write_json("clients", {"clients": table, "scoring": scoring})
        return state

    def _save(self, state: ServerState) -> None:
        with disk_errors(self.folder.checkpoint):
            checkpoint.save(self.folder.checkpoint, state, fingerprint(self.federation.config))
        self.listener.on_saved(state.round)

    def _finish(self, state: ServerState, heads: tuple[str, ...]) -> None:
        federation = self.federation
        with disk_errors(self.folder.adapter):
            peft_folder.write(self.folder.adapter, state.adapter, self.folder.target())
        summary = summarise(self.folder.read_metrics(), self.folder.read_json("clients"), federation)
        if federation.config.evaluation.rank_groups:
            groups = rank_groups(federation, state, heads)
            clients = list(state.ranks.values())
            summary["rank_groups"] = [
                {"rank": rank, "clients": clients.count(rank), **asdict(scores)} for rank, scores in groups.items()
            ]
        self.folder.write_json("summary", summary)
        self.listener.on_end(summary)


def summarise(lines: list[dict[str, Any]], clients: Mapping[str, Any], federation: Federation) -> dict[str, Any]:
    """What a run came to: best and last metrics, bytes and seconds in all, and the best constant answer.

    Raises:
        RunFolderError: no line has test metrics, because the file was cut or the run was shortened on resuming.
    """
    evaluated = [line for line in lines if "test/accuracy" in line]
    if not evaluated:
        raise RunFolderError("metrics.jsonl has no evaluated round to sum up; raise federation.rounds to go on")
    labels = federation.test.labels
    constant = max(int((labels == label).sum()) for label in range(len(federation.labels))) / len(labels)
    best = max(evaluated, key=lambda line: line["test/accuracy"])
    last = evaluated[-1]
    return {
        "method": federation.config.aggregation.method,
        "rounds": len(lines),
        "clients": len(federation.clients),
        "test/accuracy": last["test/accuracy"],
        "test/macro_f1": last["test/macro_f1"],
        "test/loss": last["test/loss"],
        "best/accuracy": best["test/accuracy"],
        "best/round": best["round"],
        "constant/accuracy": constant,
        "bytes/up": sum(line["bytes/up"] for line in lines) + clients["scoring"]["bytes/up"],
        "bytes/down": sum(line["bytes/down"] for line in lines) + clients["scoring"]["bytes/down"],
        "seconds": round(sum(line["seconds"] for line in lines), 2),
        "dropped": sum(len(line["dropped"]) for line in lines),
    }


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
