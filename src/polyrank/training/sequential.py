"""The reference engine: one client after another on one resident model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from polyrank.tasks.task import Batch, Examples
from polyrank.training.batches import limit, parts, plan
from polyrank.training.dropout import ClientDropout
from polyrank.training.local import Local
from polyrank.training.optimizer import make_optimizer
from polyrank.training.proximal import Pull
from polyrank.training.schedule import multiplier
from polyrank.training.streams import stream
from polyrank.training.work import Outcome, Penalty, Work


class Sequential(Local):
    """Local fine-tuning of LoRA factors and head by PEFT's own layers, one client at a time.

    Every client starts with a fresh optimiser. Values that stop being finite are not repaired here: the update is
    returned as it is, and the round leaves it out by name.
    """

    def run(self, works: Sequence[Work]) -> Iterator[Outcome]:
        """One outcome per work; metrics are ``loss`` (mean over the round's steps) and ``steps``."""
        return self.together(works)

    def together(self, works: Sequence[Work]) -> Iterator[Outcome]:
        """One after another."""
        for work in works:
            examples = self.examples[work.client]
            self.resident.install(work.adapter, work.base_change)
            loss, steps = self._fit(work, examples)
            trained = self.resident.extract().parts(work.trains)
            yield Outcome(work.client, trained, float(len(examples)), {"loss": loss, "steps": steps})

    def _fit(self, work: Work, examples: Examples) -> tuple[float, int]:
        options, resident, clock = self.options, self.resident, self.clock
        parameters = resident.trainable(work.trains)
        optimizer = make_optimizer([parameters], options)
        near = work.proximal
        pull = Pull(resident.of_parts(near.parts), near.weight) if near else None
        with clock("data"):
            batches = plan(len(examples), options.batch_size, options.epochs, work.seed)
        most = limit(options, resident.device)
        factor = multiplier(options, len(batches))
        total = torch.zeros((), dtype=resident.adapter_dtype, device=resident.device)
        with self.training(), self.seeded(work.seed):
            for step, indices in enumerate(batches):
                self.go_on()
                optimizer.zero_grad()
                units = self.task.units(examples, indices)
                for number, part in enumerate(parts(indices, examples.lengths, most)):
                    with clock("data"):
                        batch = self.task.collate([(examples, part)], resident.device)
                    with clock("arithmetic"):
                        loss = self._loss(work.seed, (step, number), batch) / units
                        total += loss.detach()
                        torch.autograd.backward(loss)
                if work.penalty is not None:
                    with clock("arithmetic"):
                        torch.autograd.backward(penalty(resident.tails(work.penalty.kept), work.penalty))
                if pull is not None:
                    with clock("arithmetic"):
                        pull.add()
                with clock("optimiser"):
                    for group in optimizer.param_groups:
                        group["lr"] = options.lr * work.lr_share * factor(step)
                    if options.clip > 0:
                        torch.nn.utils.clip_grad_norm_(parameters, options.clip)
                    optimizer.step()
        return float(total) / len(batches), len(batches)

    def _loss(self, seed: int, part: tuple[int, int], batch: Batch) -> Tensor:
        """Summed over a part of a step."""
        rows, tokens = batch.input_ids.shape
        own = stream(seed, *part, rows, tokens, device=self.resident.device)
        with ClientDropout([own], rows, tokens, alone=self.alone), self.resident.computing():
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
