"""The reference engine: one client after another on one resident model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from polyrank.config import TrainingConfig
from polyrank.hf.resident import ResidentModel
from polyrank.seeds import derive, numpy_generator
from polyrank.state import ClientUpdate
from polyrank.tasks import classification
from polyrank.training.batches import epoch, steps_per_epoch
from polyrank.training.job import Job, Penalty
from polyrank.training.schedule import multiplier


@dataclass(frozen=True, eq=False)
class Sequential:
    """Local fine-tuning of LoRA factors and head, one client at a time.

    Every client starts with a fresh optimiser. Values that stop being finite are not repaired here: the update is
    returned as it is, and the round leaves it out by name.
    """

    resident: ResidentModel
    options: TrainingConfig

    def train(self, jobs: Sequence[Job]) -> Iterator[ClientUpdate]:
        """One update per job; metrics are ``loss`` (mean over the round's steps) and ``steps``."""
        for job in jobs:
            self.resident.install(job.adapter, job.base_change)
            loss, steps = self._fit(job)
            yield ClientUpdate(job.client, self.resident.extract(), job.weight, {"loss": loss, "steps": steps})

    def _fit(self, job: Job) -> tuple[float, int]:
        options, resident = self.options, self.resident
        parameters = resident.trainable(job.trains)
        optimizer = _optimizer(parameters, options)
        steps = options.epochs * steps_per_epoch(len(job.examples), options.batch_size)
        factor = multiplier(options, steps)
        order = numpy_generator(job.seed, "batches")
        lengths = job.examples.lengths
        total = torch.zeros((), device=resident.device)
        step = 0
        resident.model.train()
        with torch.random.fork_rng(devices=[resident.device] if resident.device.type == "cuda" else []):
            torch.manual_seed(derive(job.seed, "dropout"))
            for _ in range(options.epochs):
                for indices in epoch(lengths, options.batch_size, order):
                    batch = classification.collate(job.examples, indices, resident.device)
                    for group in optimizer.param_groups:
                        group["lr"] = options.lr * factor(step)
                    with resident.computing():
                        logits = resident.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
                    loss = classification.loss(logits, batch.labels)
                    total += loss.detach()
                    if job.penalty is not None:
                        loss = loss + penalty(resident, job.penalty)
                    optimizer.zero_grad()
                    torch.autograd.backward(loss)
                    if options.clip > 0:
                        torch.nn.utils.clip_grad_norm_(parameters, options.clip)
                    optimizer.step()
                    step += 1
        resident.model.eval()
        return float(total) / step, step


def _optimizer(parameters: list[torch.nn.Parameter], options: TrainingConfig) -> Optimizer:
    if options.optimizer == "sgd":
        return SGD(parameters, options.lr, momentum=options.momentum, weight_decay=options.weight_decay, foreach=True)
    return AdamW(parameters, options.lr, weight_decay=options.weight_decay, foreach=True)


def penalty(resident: ResidentModel, options: Penalty) -> Tensor:
    """The regulariser of `Penalty` for what is installed; differentiable, with gradient 0 where a norm is 0."""
    terms = [torch.linalg.vector_norm(b) * torch.linalg.vector_norm(a) for a, b in resident.tails(options.kept)]
    return options.weight * torch.stack(terms).sum()
