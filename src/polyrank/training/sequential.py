"""The reference engine: one client after another on one resident model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from polyrank.config import TrainingConfig
from polyrank.core.seeds import seeded
from polyrank.core.state import ClientUpdate
from polyrank.hf.resident import ResidentModel
from polyrank.tasks import Task
from polyrank.tasks.task import Batch
from polyrank.training.batches import part_size, parts, plan
from polyrank.training.dropout import ClientDropout, stream
from polyrank.training.optimizer import make_optimizer
from polyrank.training.profile import Clock
from polyrank.training.schedule import multiplier
from polyrank.training.work import Engine, Job, Penalty


class Sequential(Engine):
    """Local fine-tuning of LoRA factors and head by PEFT's own layers, one client at a time.

    Every client starts with a fresh optimiser. Values that stop being finite are not repaired here: the update is
    returned as it is, and the round leaves it out by name.

    Args:
        resident: the base.
        task: what is learned.
        options: of the training.
        clock: where time is booked.
    """

    def __init__(
        self, resident: ResidentModel, task: Task, options: TrainingConfig, clock: Clock | None = None
    ) -> None:
        self.resident, self.task, self.options = resident, task, options
        self.clock = clock or Clock(resident.device)

    def train(self, jobs: Sequence[Job]) -> Iterator[ClientUpdate]:
        """One update per job; metrics are ``loss`` (mean over the round's steps) and ``steps``."""
        for job in jobs:
            self.resident.install(job.adapter, job.base_change)
            loss, steps = self._fit(job)
            yield ClientUpdate(job.client, self.resident.extract(), job.weight, {"loss": loss, "steps": steps})

    def _fit(self, job: Job) -> tuple[float, int]:
        options, resident, clock = self.options, self.resident, self.clock
        parameters = resident.trainable(job.trains)
        optimizer = make_optimizer([parameters], options)
        with clock("data"):
            batches = plan(len(job.examples), options.batch_size, options.epochs, job.seed)
        size = part_size(options.batch_size, resident.device)
        factor = multiplier(options, len(batches))
        total = torch.zeros((), dtype=resident.adapter_dtype, device=resident.device)
        resident.model.train()
        with seeded(job.seed, resident.device):  # for what draws past the client's streams
            for step, indices in enumerate(batches):
                optimizer.zero_grad()
                units = self.task.units(job.examples, indices)
                for number, part in enumerate(parts(indices, job.examples.lengths, size)):
                    with clock("data"):
                        batch = self.task.collate([(job.examples, part)], resident.device)
                    with clock("arithmetic"):
                        loss = self._loss(job, (step, number), batch) / units
                        total += loss.detach()
                        torch.autograd.backward(loss)
                if job.penalty is not None:
                    with clock("arithmetic"):
                        torch.autograd.backward(penalty(resident.tails(job.penalty.kept), job.penalty))
                with clock("optimiser"):
                    for group in optimizer.param_groups:
                        group["lr"] = options.lr * factor(step)
                    if options.clip > 0:
                        torch.nn.utils.clip_grad_norm_(parameters, options.clip)
                    optimizer.step()
        resident.model.eval()
        return float(total) / len(batches), len(batches)

    def _loss(self, job: Job, place: tuple[int, int], batch: Batch) -> Tensor:
        """Summed over a part of a step."""
        rows, tokens = batch.input_ids.shape
        own = stream(job.seed, *place, rows, tokens, device=self.resident.device)
        with ClientDropout([own], rows, tokens), self.resident.computing():
            losses = self.task.losses(self.resident.model, batch)
        return total_of(losses)


def total_of(losses: Tensor) -> Tensor:
    """The sum over the rows, added up in the order in which torch's own summed losses add theirs.

    ``losses.sum()`` adds in another order, and differs in the last digit from what this engine has always reported.
    """
    nothing = torch.zeros(len(losses), dtype=torch.int64, device=losses.device)
    return torch.nn.functional.nll_loss(-losses[:, None], nothing, reduction="sum")


def penalty(tails: Sequence[tuple[Tensor, Tensor]], options: Penalty) -> Tensor:
    """The regulariser of `Penalty`; differentiable, with gradient 0 where a norm is 0.

    Args:
        tails: ``(A[kept:], B[:, kept:])`` of every module.
        options: its weight.
    """
    terms = [torch.linalg.vector_norm(b) * torch.linalg.vector_norm(a) for a, b in tails]
    return options.weight * torch.stack(terms).sum()
