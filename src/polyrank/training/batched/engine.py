"""Several clients in one forward and backward pass over the shared base; the sequential engine's result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from polyrank.config import TrainingConfig
from polyrank.core.seeds import seeded
from polyrank.core.state import ClientUpdate
from polyrank.hf.resident import ResidentModel
from polyrank.tasks import Task
from polyrank.tasks.task import Batch
from polyrank.training.batched.stacked import StackedAdapters, StackedModel
from polyrank.training.batches import part_size, parts, plan
from polyrank.training.dropout import ClientDropout, stream
from polyrank.training.optimizer import make_optimizer
from polyrank.training.profile import Clock
from polyrank.training.schedule import multiplier
from polyrank.training.sequential import penalty
from polyrank.training.work import Engine, Job, in_order, in_passes


@dataclass(frozen=True, eq=False)
class Padded:
    """The same part of the clients' steps as one batch.

    Args:
        batch: ``(clients * rows, tokens)``; a client with fewer examples has rows of padding at its end.
        weights: of each row's loss in its client's mean over the step, ``(clients * rows,)``; 0 for padding.
        rows: per client.
        chosen: indices of the examples, per client.
        longest: tokens of the longest of them, per client.
    """

    batch: Batch
    weights: Tensor
    rows: int
    chosen: Sequence[np.ndarray]
    longest: Sequence[int]


class Batched(Engine):
    """Local fine-tuning of several clients at a time.

    The loss of a pass is the sum of each client's own mean, so a client's gradient is what it would be alone. Clients
    are sorted by their number of steps and leave the pass when they are done. Optimiser, clipping and schedule are per
    client; values of a client that stop being finite stay with it.

    Args:
        resident: the base.
        task: what is learned.
        options: of the training.
        clients_per_pass: the most clients in one pass.
        clock: where time is booked.

    Raises:
        UnbatchableError: the model couples the examples of a batch, or its head has no stacked form.
    """

    def __init__(
        self,
        resident: ResidentModel,
        task: Task,
        options: TrainingConfig,
        clients_per_pass: int,
        clock: Clock | None = None,
    ) -> None:
        self.resident, self.task, self.options, self.clients_per_pass = resident, task, options, clients_per_pass
        self.clock = clock or Clock(resident.device)
        self._model = StackedModel(resident)
        self._drops = True  # until a step has shown otherwise

    def train(self, jobs: Sequence[Job]) -> Iterator[ClientUpdate]:
        """One update per job, in the order of the jobs; metrics as of the sequential engine."""
        passes = in_passes(jobs, self.clients_per_pass, self.options)
        yield from in_order(jobs, (update for together in passes for update in self._pass(together)))

    def _pass(self, jobs: Sequence[Job]) -> list[ClientUpdate]:
        options, resident, clock = self.options, self.resident, self.clock
        with clock("data"):
            plans = [plan(len(job.examples), options.batch_size, options.epochs, job.seed) for job in jobs]
            size = part_size(options.batch_size, resident.device)
        steps = [len(batches) for batches in plans]
        factors = [multiplier(options, count) for count in steps]
        totals = torch.zeros(len(jobs), dtype=resident.adapter_dtype, device=resident.device)
        resident.model.train()
        with self._model.installed(), seeded(jobs[0].seed, resident.device):  # as sequential, where there is one client
            adapters = StackedAdapters(
                self._model, [job.adapter for job in jobs], [job.base_change for job in jobs], jobs[0].trains
            )
            optimizer = make_optimizer([[row] for row in adapters.rows], options)
            for step in range(steps[0]):
                active = sum(count > step for count in steps)
                with clock("arithmetic"):
                    adapters.activate(active)
                with clock("data"):
                    chosen = [batches[step] for batches in plans[:active]]
                    cut = [
                        parts(own, job.examples.lengths, size) for job, own in zip(jobs[:active], chosen, strict=True)
                    ]
                    units = [self.task.units(job.examples, own) for job, own in zip(jobs[:active], chosen, strict=True)]
                for number in range(max(map(len, cut))):
                    with clock("data"):
                        batch = self._together(jobs[:active], [_at(own, number) for own in cut], units)
                    with clock("arithmetic"):
                        losses = self._losses(jobs, (step, number), batch)
                        totals[:active] += losses.detach()
                        torch.autograd.backward(losses.sum())
                with clock("arithmetic"):
                    for k, job in enumerate(jobs[:active]):
                        if job.penalty is not None:
                            torch.autograd.backward(penalty(adapters.tails(k, job.penalty.kept), job.penalty))
                    adapters.collect()
                with clock("optimiser"):
                    for k, row in enumerate(adapters.rows[:active]):
                        optimizer.param_groups[k]["lr"] = options.lr * factors[k](step)
                        if options.clip > 0:
                            torch.nn.utils.clip_grad_norm_(row, options.clip)
                    optimizer.step()
            updates = [
                ClientUpdate(job.client, adapter, job.weight, {"loss": total / count, "steps": count})
                for job, adapter, total, count in zip(jobs, adapters.extract(), totals.tolist(), steps, strict=True)
            ]
        resident.model.eval()
        return updates

    def _losses(self, jobs: Sequence[Job], place: tuple[int, int], batch: Padded) -> Tensor:
        """What a part of a step adds to each client's mean loss, ``(clients,)``."""
        rows, tokens = batch.rows, batch.batch.input_ids.shape[1]
        drop: ClientDropout | None = None
        if self._drops:
            streams = [
                stream(job.seed, *place, len(own), longest, device=self.resident.device)
                for job, own, longest in zip(jobs, batch.chosen, batch.longest, strict=False)
            ]
            drop = ClientDropout(streams, rows, tokens)
        with drop or nullcontext(), self.resident.computing():
            each = self.task.losses(self.resident.model, batch.batch)
        self._drops = drop is not None and drop.used
        return (each * batch.weights.to(each.dtype)).view(-1, rows).sum(dim=1)

    def _together(self, jobs: Sequence[Job], chosen: Sequence[np.ndarray], units: Sequence[int]) -> Padded:
        """A part of the clients' steps.

        Args:
            jobs: of the clients.
            chosen: indices of the examples, per client.
            units: of each client's whole step, by which its losses are divided.
        """
        rows, device = max(len(indices) for indices in chosen), self.resident.device
        batch = self.task.collate([(job.examples, own) for job, own in zip(jobs, chosen, strict=True)], device)
        weights = np.zeros((len(jobs), rows), dtype=np.float64)
        for own, indices, count in zip(weights, chosen, units, strict=True):
            own[: len(indices)] = 1 / count
        longest = [int(job.examples.lengths[own].max(initial=1)) for job, own in zip(jobs, chosen, strict=True)]
        return Padded(batch, torch.from_numpy(weights.ravel()).to(device), rows, chosen, longest)


def _at(cut: Sequence[np.ndarray], number: int) -> np.ndarray:
    """A part of a client's step; nothing where its step has fewer parts than others'."""
    return cut[number] if number < len(cut) else np.empty(0, dtype=np.int64)
