"""Several clients in one forward and backward pass over the shared base; the sequential engine's result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor

from polyrank.config import TrainingConfig
from polyrank.hf.resident import ResidentModel
from polyrank.tasks import Task
from polyrank.tasks.task import Examples
from polyrank.training.batched.adapters import StackedAdapters
from polyrank.training.batched.padded import Padded, together
from polyrank.training.batched.recorded import Recordings
from polyrank.training.batched.stacked import StackedModel
from polyrank.training.batches import limit, parts, plan
from polyrank.training.dropout import ClientDropout
from polyrank.training.local import Local
from polyrank.training.optimizer import make_optimizer
from polyrank.training.profile import Clock
from polyrank.training.proximal import Pull
from polyrank.training.schedule import multiplier
from polyrank.training.sequential import penalty
from polyrank.training.streams import Stream, stream
from polyrank.training.work import Outcome, Work, in_order


class Batched(Local):
    """Local fine-tuning of several clients at a time.

    The loss of a pass is the sum of each client's own mean, so a client's gradient is what it would be alone. Clients
    are sorted by their number of steps and leave the pass when they are done. Optimiser, clipping and schedule are per
    client; values of a client that stop being finite stay with it.

    Args:
        resident: the base.
        task: what is learned.
        examples: client -> what it learns from.
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
        examples: Mapping[str, Examples],
        options: TrainingConfig,
        clients_per_pass: int,
        *,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(resident, task, examples, options, clock=clock)
        self.clients_per_pass = clients_per_pass
        self._model = StackedModel(resident)
        self._drops = True  # until a step has shown otherwise
        self._recordings: Recordings | None = None
        if options.cuda_graphs and examples and not options.gradient_checkpointing:
            pad = next(iter(examples.values())).pad_id
            longest = max(int(own.lengths.max(initial=1)) for own in examples.values())
            self._recordings = Recordings(task, longest, pad)

    def run(self, works: Sequence[Work]) -> Iterator[Outcome]:
        """One outcome per work, in the order of the works; metrics as of the sequential engine."""
        outcomes = (outcome for together in self.passes(works) for outcome in self.together(together))
        yield from in_order(works, outcomes)

    def together(self, works: Sequence[Work]) -> list[Outcome]:
        """The clients of one pass, those of most steps first."""
        examples = [self.examples[work.client] for work in works]
        options, resident, clock = self.options, self.resident, self.clock
        with clock("data"):
            plans = [
                plan(len(held), options.batch_size, options.epochs, work.seed)
                for work, held in zip(works, examples, strict=True)
            ]
            most = limit(options, resident.device)
        steps = [len(batches) for batches in plans]
        factors = [multiplier(options, count) for count in steps]
        totals = torch.zeros(len(works), dtype=resident.adapter_dtype, device=resident.device)
        seed = works[0].seed  # as sequential, where there is one client
        with self._model.installed(), self.training(), self.seeded(seed):
            adapters = StackedAdapters(
                self._model, [work.adapter for work in works], [work.base_change for work in works], works[0].trains
            )
            optimizer = make_optimizer([[row] for row in adapters.rows], options)
            pulls = [_pull(work, adapters, k) for k, work in enumerate(works)]
            for step in range(steps[0]):
                self.go_on()
                active = sum(count > step for count in steps)
                with clock("arithmetic"):
                    adapters.activate(active)
                with clock("data"):
                    chosen = [batches[step] for batches in plans[:active]]
                    cut = [parts(own, held.lengths, most) for held, own in zip(examples, chosen, strict=False)]
                    units = [self.task.units(held, own) for held, own in zip(examples, chosen, strict=False)]
                for number in range(max(map(len, cut))):
                    with clock("data"):
                        own = [_at(pieces, number) for pieces in cut]
                        part = together(self.task, examples[:active], own, units, resident.device)
                    with clock("arithmetic"):
                        totals[:active] += self._part(works, (step, number), adapters, part)
                with clock("arithmetic"):
                    for k, work in enumerate(works[:active]):
                        if work.penalty is not None:
                            torch.autograd.backward(penalty(adapters.tails(k, work.penalty.kept), work.penalty))
                    adapters.collect()
                    for pull in pulls[:active]:
                        if pull is not None:
                            pull.add()
                with clock("optimiser"):
                    for k, work in enumerate(works[:active]):
                        optimizer.param_groups[k]["lr"] = options.lr * work.lr_share * factors[k](step)
                    if options.clip > 0:
                        adapters.clip(options.clip)
                    optimizer.step()
            trained = [adapter.parts(works[0].trains) for adapter in adapters.extract()]
            return [
                Outcome(work.client, own, float(len(held)), {"loss": total / count, "steps": count})
                for work, own, held, total, count in zip(works, trained, examples, totals.tolist(), steps, strict=True)
            ]

    def _part(self, works: Sequence[Work], step: tuple[int, int], adapters: StackedAdapters, part: Padded) -> Tensor:
        """What a part of a step adds to each client's mean loss, ``(clients,)``; the gradients go to the adapters.

        Args:
            works: of the clients.
            step: its number, and the part's.
            adapters: the clients'.
            part: of the active clients' steps.
        """

        def streams() -> list[Stream]:
            return [
                stream(work.seed, *step, count, longest, device=self.resident.device)
                for work, count, longest in zip(works, part.counts, part.longest, strict=False)
            ]

        if self._recordings is not None and self.alone:
            recorded = self._recordings.run(adapters, part, streams if self._drops else None)
            if recorded is not None:
                return recorded
        drop = ClientDropout(streams(), part.rows, part.tokens, alone=self.alone) if self._drops else None
        with drop or nullcontext(), self.resident.computing():
            each = self.task.losses(self.resident.model, part.batch)
        self._drops = drop is not None and drop.used
        losses = part.mean(each)
        torch.autograd.backward(losses.sum())
        return losses.detach()


def _at(cut: Sequence[np.ndarray], number: int) -> np.ndarray:
    """A part of a client's step; nothing where its step has fewer parts than others'."""
    return cut[number] if number < len(cut) else np.empty(0, dtype=np.int64)


def _pull(work: Work, adapters: StackedAdapters, client: int) -> Pull | None:
    """What draws one client of the pass back to where it starts."""
    if work.proximal is None:
        return None
    row = adapters.rows[client]
    return Pull([row], work.proximal.weight * adapters.where(work.proximal.parts).to(row.dtype))
