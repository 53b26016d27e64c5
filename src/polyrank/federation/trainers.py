"""Who trains the clients of a site: lanes of this process, processes of this machine, or the nodes of a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from polyrank.config import Config, TrainingConfig
from polyrank.config.sections import NO_CLUSTER
from polyrank.hf.resident import ResidentModel
from polyrank.tasks import Task
from polyrank.tasks.task import Examples
from polyrank.training.cluster import Cluster, Share, connect, share
from polyrank.training.engines import engine_in_lanes
from polyrank.training.lanes import Lanes
from polyrank.training.profile import Clock
from polyrank.training.remote import Setup
from polyrank.training.work import Engine
from polyrank.training.workers import Workers


def lanes_of(training: TrainingConfig, resident: ResidentModel) -> Lanes:
    """Make a lane for each pass that is computed at a time, here or in processes of this machine: they also measure."""
    assert isinstance(training.workers, int)
    assert isinstance(training.lanes, int)
    here = resident.device.type == "cpu" and training.cluster == NO_CLUSTER
    return Lanes(resident, training.lanes * (training.workers if here else 1))


@dataclass(frozen=True)
class Joined:
    """A cluster that this process is in.

    Args:
        cut: how it is shared out.
        leave: whether it is left afterwards.
    """

    cut: Share
    leave: bool


def joined(training: TrainingConfig) -> Joined | None:
    """Join the cluster that a configuration names; None where it names none."""
    if training.cluster == NO_CLUSTER:
        return None
    leave = connect(training.cluster)
    return Joined(share(training.workers), leave)


def engine_of(
    config: Config,
    task: Task,
    lanes: Lanes,
    examples: Mapping[str, Examples],
    outputs: tuple[str, ...],
    *,
    clock: Clock,
    cluster: Joined | None,
) -> Engine:
    """Whoever trains the clients: this process, others of this machine, or a cluster.

    Args:
        config: with nothing open.
        task: what is learned.
        lanes: of this process.
        examples: client -> what it learns from.
        outputs: names of what the model's head gives.
        clock: where time is booked.
        cluster: where it is joined.
    """
    training, device = config.training, clock.device
    if training.workers == 1 and cluster is None:
        return engine_in_lanes(lanes, task, examples, training, clock)
    assert isinstance(training.workers, int)
    assert device is not None
    setup = Setup(
        model=config.model,
        task=task,
        examples=examples,
        outputs=outputs,
        seed=config.federation.seed,
        device=str(device),
        training=training,
        threads=max(torch.get_num_threads() // training.workers, 1),
        profile=clock.running,
    )
    if cluster is not None:
        there = replace(setup, device="cuda" if cluster.cut.gpus else "cpu")
        return Cluster(there, cluster.cut, clock, leave=cluster.leave)
    if device.type != "cuda":
        return Workers([setup] * training.workers, clock)
    count = torch.cuda.device_count()
    return Workers([replace(setup, device=f"cuda:{i % count}") for i in range(training.workers)], clock)
