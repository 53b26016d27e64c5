"""Parts of steps that are recorded once for each shape, and replayed from fixed places in memory.

On a GPU a small step is all starts of kernels, one after another from Python; a CUDA graph starts them all at once.
What a recording reads is copied to its places first: the batch, padded on to a length that few shapes have, the
clients' values, and the masks of dropout, drawn from the clients' streams as in a pass that is not recorded. On a CPU
the same is done without a graph, and the operations are started again.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from polyrank.tasks import Task
from polyrank.tasks.task import Batch
from polyrank.training.batched.adapters import StackedAdapters
from polyrank.training.batched.leaves import Leaves
from polyrank.training.batched.padded import Padded
from polyrank.training.dropout import ClientDropout, UnbatchableError
from polyrank.training.streams import Stream

log = logging.getLogger(__name__)

Pool = Any
"""Of memory that CUDA graphs share; Any: torch has no public name for its handle."""

TOKENS = 32
"""Batches are padded on to a multiple of so many tokens, so that few shapes are recorded."""
MOST = 48
"""Recordings that are held; the one that was not used for longest goes. They share the memory of what they compute, and
each has its inputs and masks."""
NEAR = 1e-3
"""How far from the gradients of the pass, as a share of their norm, a graph's may be; rounding is far less."""
WARM = 2
"""Times that a pass is computed before it is captured, so that libraries have what they set up at first."""


class Refilled(ClientDropout):
    """Dropout whose masks stay where they are in memory, drawn when first met and filled anew for another pass."""

    def __init__(self, streams: Sequence[Stream], rows: int, tokens: int) -> None:
        super().__init__(streams, rows, tokens, alone=False)  # what no stream gives would be the same in every replay
        self._met: list[tuple[Tensor, int]] = []
        self._next = 0

    def kept(self, x: Tensor, threshold: int) -> Tensor:
        """What any pass keeps; in another pass, the mask that was met in this place."""
        if self._next == len(self._met):
            if x.shape[0] != len(self.streams) * self.rows:
                raise UnbatchableError(f"a tensor of shape {tuple(x.shape)} has values dropped, not rows of examples")
            self._met.append((super().kept(x, threshold), threshold))
        keep, _ = self._met[self._next]
        self._next += 1
        return keep

    def again(self) -> ClientDropout:
        """For another pass, whose first mask is the first that was met."""
        self._next = 0
        return self

    def refill(self, streams: Callable[[], Sequence[Stream]]) -> None:
        """All masks from other streams, in the order in which a pass draws them."""
        if self._met:
            self.streams = streams()
            for keep, threshold in self._met:
                self.draw(keep, threshold)


class Recording:
    """The forward and backward pass of one shape.

    Args:
        task: what is learned.
        adapters: some of the shape.
        like: a part of the shape.
        tokens: to which it is padded.
        pad: the token that pads.
        dropout: that the pass draws from.

    Attributes:
        losses: of the last replay, ``(clients,)``.
        gradient: of their sum, ``(clients, numbers)``.
    """

    def __init__(
        self, task: Task, adapters: StackedAdapters, like: Padded, tokens: int, *, pad: int, dropout: Refilled | None
    ) -> None:
        self._task, self._model, self._pad, self.dropout = task, adapters.model, pad, dropout
        resident, clients = adapters.model.resident, adapters.active
        trained, kept, scales = adapters.values()
        self._trained, self._kept = (torch.empty_like(own, dtype=resident.dtype) for own in (trained, kept))
        self._scales = torch.empty_like(scales, device=resident.device)
        by_name = dict(zip(self._model.lora, self._scales, strict=True))
        self._leaves = Leaves(adapters.layout, self._trained, self._kept, by_name)
        batch = like.batch
        ids, mask = (functional.pad(own, (0, tokens - like.tokens)) for own in (batch.input_ids, batch.attention_mask))
        self._part = Padded(
            Batch(ids, mask, batch.targets.clone()), like.weights.clone(), like.rows, like.counts, like.longest
        )
        self.losses, self.gradient = trained.new_empty(clients), torch.empty_like(trained)
        self.replay: Callable[[], None] = self.compute

    def load(self, adapters: StackedAdapters, part: Padded) -> None:
        """Other values and another batch to the places of the first ones."""
        for place, value in zip((self._trained, self._kept, self._scales), adapters.values(), strict=True):
            place.copy_(value)
        own = self._part.batch
        ids, mask = own.input_ids, own.attention_mask
        ids[:, part.tokens :] = self._pad
        mask[:, part.tokens :] = 0
        ids[:, : part.tokens].copy_(part.batch.input_ids)
        mask[:, : part.tokens].copy_(part.batch.attention_mask)
        own.targets.copy_(part.batch.targets)
        self._part.weights.copy_(part.weights)

    def compute(self) -> None:
        """The pass itself, of what is at its places now."""
        resident = self._model.resident
        self._leaves.put(self._model)
        with self.dropout.again() if self.dropout else nullcontext(), resident.computing():
            each = self._task.losses(resident.model, self._part.batch)
        losses = self._part.mean(each)
        self._leaves.gather(torch.autograd.grad(losses.sum(), self._leaves.tensors, allow_unused=True), self.gradient)
        self.losses.copy_(losses.detach())

    def capture(self, pool: Pool) -> None:
        """Make it a CUDA graph, whose memory is that of the other recordings: none runs beside another."""
        here, side = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(here)
        with torch.cuda.stream(side):
            for _ in range(WARM):
                self.compute()
        here.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            self.compute()
        expected = self.gradient.clone()
        graph.replay()
        off, size = (self.gradient - expected).norm(), expected.norm()
        if not bool(off <= NEAR * size) and bool(size.isfinite()):
            raise UnbatchableError(f"a graph gives gradients that are off by {float(off / size):.1e} of their norm")
        self.replay = graph.replay


class Recordings:
    """The recordings of one engine.

    Args:
        task: what is learned.
        longest: tokens of the longest example there is; no model is given more.
        pad: the token that pads.
    """

    def __init__(self, task: Task, longest: int, pad: int) -> None:
        self._task, self._longest, self._pad = task, longest, pad
        self._kinds: dict[Hashable, int] = {}
        self._last: tuple[Hashable, str, int] = (None, "", -1)
        self._seen: set[Hashable] = set()
        self._held: OrderedDict[Hashable, Recording] = OrderedDict()
        self._pool: Pool | None = None
        self._refused = False

    def run(
        self, adapters: StackedAdapters, part: Padded, streams: Callable[[], Sequence[Stream]] | None
    ) -> Tensor | None:
        """What the part adds to each client's mean loss, ``(clients,)``; its gradients are added to the adapters.

        A shape is recorded when it is met for the second time.

        Args:
            adapters: some of them active.
            part: of their steps.
            streams: the clients' dropout, anew at each call; None where nothing is drawn.

        Returns:
            None where it is not recorded; nothing was computed then.
        """
        if self._refused or adapters.changed or not self._task.fixed:
            return None
        tokens = min(-(-part.tokens // TOKENS) * TOKENS, max(self._longest, part.tokens))
        shape = (self._number(adapters), part.rows, tokens, streams is None)
        if shape not in self._seen:
            self._seen.add(shape)
            return None
        recording = self._held.get(shape)
        if recording is None:
            recording = self._recorded(adapters, part, tokens, streams)
            adapters.put()
            if recording is None:
                return None
            self._held[shape] = recording
            if len(self._held) > MOST:
                self._held.popitem(last=False)
        else:
            self._held.move_to_end(shape)
            recording.load(adapters, part)
            if recording.dropout is not None and streams is not None:
                recording.dropout.refill(streams)
            recording.replay()
            adapters.put()
        adapters.add(recording.gradient)
        return recording.losses.clone()

    def _number(self, adapters: StackedAdapters) -> int:
        """The number of the active adapters' kind, in the base's attention; a kind has many parts, and is long."""
        attention = adapters.model.resident.attention
        last, of, number = self._last
        if adapters.kind is not last or attention != of:
            number = self._kinds.setdefault((adapters.kind, attention), len(self._kinds))
            self._last = (adapters.kind, attention, number)
        return number

    def _recorded(
        self, adapters: StackedAdapters, part: Padded, tokens: int, streams: Callable[[], Sequence[Stream]] | None
    ) -> Recording | None:
        """A recording that has been computed for this part; None where it cannot be had, from then on for any."""
        device = adapters.model.resident.device
        try:
            dropout = None if streams is None else Refilled(streams(), part.rows, tokens)
            recording = Recording(self._task, adapters, part, tokens, pad=self._pad, dropout=dropout)
            recording.load(adapters, part)
            recording.compute()
            if device.type == "cuda":
                self._pool = self._pool or torch.cuda.graph_pool_handle()
                recording.capture(self._pool)
        except (UnbatchableError, RuntimeError) as error:  # torch's own, of what cannot be captured or has no memory
            log.warning("steps are not recorded, and computed as ever: %s", error)
            self._refused = True
            self._held.clear()
            return None
        return recording
