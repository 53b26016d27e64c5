"""From a configuration to everything that a federation runs on: data, clients, model, method."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from polyrank import aggregation, ranks
from polyrank.aggregation import Method, Parts
from polyrank.config import Config
from polyrank.core.errors import ConfigError, DataError
from polyrank.core.state import ServerState
from polyrank.data import Partition, TextDataset
from polyrank.federation.population import digests, first_ranks, global_rank, held_out, load_data, share_out
from polyrank.federation.round import check_ranks, cohort, parts_of
from polyrank.hf.load import head_end_token, load_base, load_tokenizer
from polyrank.hf.resident import ResidentModel
from polyrank.ranks import RankPolicy, scale_of
from polyrank.tasks import Task
from polyrank.tasks import task as named_task
from polyrank.tasks.task import Encoded, Examples
from polyrank.training.engines import local_engine
from polyrank.training.preflight import check_reads
from polyrank.training.profile import Clock
from polyrank.training.tuning.planner import Plan, choose
from polyrank.training.tuning.precision import Choice, fastest
from polyrank.training.work import Engine, Job
from polyrank.training.workers import Setup, Workers

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Federation:
    """All that stays the same over the rounds of a run.

    Args:
        config: resolved: no ``auto`` is left.
        task: what is learned.
        partition: who holds what.
        examples: client -> its tokenised examples.
        test: held-out examples.
        validation: the balanced set that the server keeps to score clients, where the rank policy asks for one.
        outputs: names of what the model's head gives, such as the classes.
        labels: names of the data's labels; none where there are none.
        read: how many rows were read from each source of data.
        resident: the one base model.
        engine: how clients are trained.
        method: how they are aggregated.
        policy: who gets which rank.
        plan: how clients are trained, and why.
        clock: where time is booked.
        digests: what the data and the model held when they were read.
    """

    config: Config
    task: Task
    partition: Partition
    examples: Mapping[str, Examples]
    test: Examples
    validation: Examples | None
    outputs: tuple[str, ...]
    labels: tuple[str, ...]
    read: Mapping[str, int]
    resident: ResidentModel
    engine: Engine
    method: Method
    policy: RankPolicy
    plan: Plan
    clock: Clock
    digests: Mapping[str, str] = field(default_factory=dict)

    def close(self) -> None:
        """End the processes that train clients, where there are any."""
        self.engine.close()

    @property
    def clients(self) -> tuple[str, ...]:
        """Names, sorted."""
        return tuple(sorted(self.examples))

    def label_counts(self, client: str) -> list[int]:
        """How many examples of each label the client holds, in their order; nothing where there are none."""
        return self.examples[client].kind_counts(len(self.labels))

    @property
    def rows_read(self) -> str:
        """What was read, for people: ``80 rows of train.csv``."""
        return ", ".join(f"{count} rows of {source}" for source, count in self.read.items())

    @property
    def local_head(self) -> bool:
        """Whether heads stay with their clients."""
        return self.config.federation.head == "local"

    def parts(self, round_number: int) -> Parts:
        """What is trained and what travels in a round."""
        return parts_of(self.method, round_number, local_head=self.local_head)

    def initial_state(self) -> ServerState:
        """The server before the first round, with the policy's first ranks."""
        seed = self.config.federation.seed
        start = self.policy.start(self.clients, self.partition.groups, seed)
        rank = global_rank(self.config)
        adapter = self.resident.initial(rank, scale_of(rank, self.config.ranks), seed)
        return ServerState(0, adapter, start, self.scales(start), seed=seed)

    def scales(self, client_ranks: Mapping[str, int]) -> dict[str, float]:
        """Client -> the scale that goes with its rank."""
        return {client: scale_of(rank, self.config.ranks) for client, rank in client_ranks.items()}


def build(
    config: Config, *, profile: bool = False, check: Callable[[Mapping[str, str]], None] | None = None
) -> Federation:
    """Read the data, share it out, load the model, and resolve what was ``auto``.

    Args:
        config: what to run.
        profile: whether the federation's clock books where the time goes.
        check: refuses data and model by their digests, before anything else that other data could break.

    Raises:
        PolyRankError: something in the configuration, the data or the model does not fit; nothing was written.
    """
    task = named_task(config.task)
    method = aggregation.build(config.aggregation.method, config.aggregation.options)
    policy = ranks.policy(config.ranks)
    seed = config.federation.seed
    split = load_data(config)
    if check is not None:
        check(digests(config, split))
    train, validation = held_out(split.train, config, policy)
    partition = share_out(train, config)
    check_ranks(method, first_ranks(config, policy, partition), global_rank(config))
    if method.info.equal_ranks and policy.shrunk(global_rank(config)) < global_rank(config):
        raise ConfigError(
            f"aggregation.method {method.info.name} needs clients of equal ranks, but with ranks.policy "
            f"{config.ranks.policy} they may shrink; give ranks.levels one value, or take a method for different ranks "
            "(see: polyrank methods)"
        )

    tokenizer = load_tokenizer(config.model)
    used = np.unique(np.concatenate(list(partition.examples.values())))  # others are not even tokenised
    sets = {"train": train.subset(used), "test": split.test} | ({"validation": validation} if validation else {})
    end = None if config.model.head == "mean-pool" else head_end_token(config.model)
    encoded = {name: _encoded(task, part, tokenizer, config.data.max_tokens, end) for name, part in sets.items()}
    largest = max(part.examples.largest for part in encoded.values())
    outputs = task.outputs(split.train)
    rank = global_rank(config)

    def load(dtype: torch.dtype, attention: str) -> ResidentModel:
        resident = ResidentModel(
            load_base(config.model, outputs, seed=seed, dtype=dtype, attention=attention), device()
        )
        resident.check_tokens(largest)
        resident.install(resident.initial(rank, scale_of(rank, config.ranks), seed))
        for name, part in sets.items():
            check_reads(resident, task, part, encoded[name])
        return resident

    choice = fastest(load, task, config.training, encoded["train"].examples)
    if choice.resident.base.note:
        log.warning(choice.resident.base.note)
    examples = _shared_out(partition, used, encoded["train"])
    plan = _plan(config, task, choice, examples)
    config = _resolved(config, choice, plan, len(partition.examples))
    clock = Clock(choice.resident.device, running=profile)
    return Federation(
        config=config,
        task=task,
        partition=partition,
        examples=examples,
        test=encoded["test"].examples,
        validation=encoded["validation"].examples if validation else None,
        outputs=outputs,
        labels=split.train.label_names,
        read=split.read,
        resident=choice.resident,
        engine=_engine(config, task, choice.resident, outputs, clock),
        method=method,
        policy=policy,
        plan=plan,
        clock=clock,
        digests=digests(config, split),
    )


def _encoded(
    task: Task, dataset: TextDataset, tokenizer: Any, max_tokens: int, end: int | None
) -> Encoded:  # Any: as in `Task.encode`
    """A data set as the task reads it; what it cuts or leaves out is in the log."""
    found = task.encode(dataset, tokenizer, max_tokens, end=end)
    if found.cut:
        log.info("%d of %d texts of %s are cut to %d tokens", found.cut, len(dataset), dataset.where, max_tokens)
    for reason, rows in found.left_out.items():
        log.warning(
            "%d of %d rows of %s are left out: %s; the first: row %d",
            *(len(rows), len(dataset), dataset.where, reason, dataset.row(int(rows[0]))),
        )
    if len(found.examples) == 0:
        why = ", ".join(found.left_out) or "there are none"
        raise DataError(f"{dataset.where}: no row is left as an example: {why}")
    return found


def _shared_out(partition: Partition, used: np.ndarray, encoded: Encoded) -> dict[str, Examples]:
    """Each client's examples.

    Args:
        partition: client -> rows of the training data.
        used: rows that were encoded.
        encoded: as which of them.

    Raises:
        DataError: none of a client's rows is left.
    """
    kept = used[encoded.kept]
    found = {
        client: encoded.examples.subset(np.searchsorted(kept, rows[np.isin(rows, kept)]))
        for client, rows in partition.examples.items()
    }
    if empty := [client for client, own in found.items() if len(own) == 0]:
        why = ", ".join(encoded.left_out)
        raise DataError(f"{len(empty)} client(s) have no example left, {empty[0]} for one: {why}; mend their rows")
    return found


def _plan(config: Config, task: Task, choice: Choice, examples: Mapping[str, Examples]) -> Plan:
    """How such cohorts are trained fastest, by the first of them at the highest rank."""
    options, rank = config.federation, global_rank(config)
    adapter = choice.resident.initial(rank, scale_of(rank, config.ranks), options.seed)
    names = cohort(sorted(examples), options.participation, options.seed, 1)
    jobs = [Job(name, adapter, examples[name], 1.0, seed) for seed, name in enumerate(names)]
    plan = choose(choice.resident, task, config.training, jobs, options.rounds)
    choice.resident.install(adapter)
    return plan


def _engine(config: Config, task: Task, resident: ResidentModel, outputs: tuple[str, ...], clock: Clock) -> Engine:
    training = config.training
    if not isinstance(training.workers, int) or training.workers == 1:
        return local_engine(resident, task, training, clock)
    device, count = resident.device, torch.cuda.device_count()
    setups = [
        Setup(
            model=config.model,
            task=task,
            outputs=outputs,
            seed=config.federation.seed,
            device=f"cuda:{i % count}" if device.type == "cuda" else str(device),
            training=training,
            threads=max(torch.get_num_threads() // training.workers, 1),
            profile=clock.running,
        )
        for i in range(training.workers)
    ]
    return Workers(setups, clock)


def device() -> torch.device:
    """Where this machine computes."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _resolved(config: Config, choice: Choice, plan: Plan, clients: int) -> Config:
    """The configuration with everything in place that was ``auto`` or left to the data."""
    return config.model_copy(
        update={
            "model": choice.resident.base.config,
            "federation": config.federation.model_copy(update={"clients": clients}),
            "training": config.training.model_copy(
                update={
                    "precision": choice.precision,
                    "attention": choice.attention,
                    "engine": plan.engine,
                    "clients_per_pass": plan.clients_per_pass,
                    "workers": plan.workers,
                }
            ),
        }
    )
