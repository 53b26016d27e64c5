"""The memory that a client needs: of its base and its rank by arithmetic, of activations as they are measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from polyrank.config import Config
from polyrank.config.sections import NO_CLUSTER
from polyrank.federation.loading import load
from polyrank.federation.planning.outlook import Outlook
from polyrank.federation.population import initial, read
from polyrank.federation.round import parts_of
from polyrank.federation.site import Site
from polyrank.hf.quantized import QuantizedLinear
from polyrank.ranks import policy
from polyrank.tasks import settled
from polyrank.training.sequential import Sequential
from polyrank.training.tuning.saved import most_allocated, most_saved
from polyrank.training.work import Work

BYTES = {"float32": 4, "bfloat16": 2}
"""Of a number of the base, by ``training.precision``."""
OWN = 4
"""Bytes of a number that is trained, of its gradient and of each of the optimiser's moments: float32."""


@dataclass(frozen=True)
class Footprint:
    """What one client's training holds, where it trains alone; exact but for what the libraries need.

    Args:
        parameters: of the frozen base, quantised ones among them.
        base: precision -> bytes of them; one where it is known, else each that may be chosen.
        moments: numbers that are kept for each that is trained: the optimiser's, and where ``proximal`` began.
    """

    parameters: int
    base: Mapping[str, int]
    moments: int


def footprint(ahead: Outlook) -> Footprint:
    """The base's part of a client's memory."""
    resident, training = ahead.resident, ahead.config.training
    trained = {id(parameter) for parameter in resident.trainable()}
    count = sum(own.numel() for own in resident.model.parameters() if id(own) not in trained)
    packed = [module for module in resident.model.modules() if isinstance(module, QuantizedLinear)]
    numbers, held = sum(own.count for own in packed), sum(own.packed_bytes for own in packed)
    chosen = BYTES if training.precision == "auto" else {training.precision: BYTES[training.precision]}
    moments = 2 if training.optimizer == "adamw" else int(training.momentum > 0)
    moments += training.proximal > 0
    base = {name: size * count + held for name, size in chosen.items()}
    return Footprint(count + numbers, base, moments)


def held_for(ahead: Outlook, rank: int, moments: int) -> int:
    """Bytes of an adapter of this rank and its head, its gradients and moments; in the rounds where it is most.

    A client that chooses its rank indices tries all of the global adapter's.
    """
    if ahead.method.info.chooses_indices:
        rank = max(rank, ahead.adapter.rank)
    own = ahead.widest.prefix(rank)
    numbers = sum(tensor.numel() for _, tensor in own.tensors())
    trained = max(sum(t.numel() for t in own.parts(ahead.parts(number).trains).values()) for number in (1, 2))
    return OWN * (numbers + trained * (1 + moments))


@dataclass(frozen=True)
class Measured:
    """What a step of one client was seen to keep.

    Args:
        precision: of the base.
        saved: rank -> bytes kept for the backward pass.
        allocated: rank -> the most bytes that the GPU's allocator held beside base and adapter; nothing without a GPU.
        tokens: of the step's longest text.
        texts: of the step.
    """

    precision: str
    saved: Mapping[int, int]
    allocated: Mapping[int, int]
    tokens: int
    texts: int

    def at(self, rank: int) -> int:
        """Bytes at a rank, which grow with it in a line: between two ranks that were measured, or beyond them."""
        found = self.allocated or self.saved
        if rank in found:
            return found[rank]
        low, high = min(found), max(found)
        slope = (found[high] - found[low]) / (high - low) if high > low else 0.0
        return max(int(found[low] + slope * (rank - low)), 0)


def measured(config: Config, levels: Sequence[int]) -> Measured:
    """Load the model and the data, and look at the longest step that any client has, at each rank.

    Raises:
        PolyRankError: something does not fit, as a run would say.
    """
    config = settled(config)
    # how many share a pass is no matter of a client's
    alone = {"engine": "sequential", "lanes": 1, "workers": 1, "cluster": NO_CLUSTER, "epochs": 1}
    config = config.model_copy(update={"training": config.training.model_copy(update=alone)})
    site = load(config, read(config, policy(config.ranks)))
    client, rows = _longest(site)
    examples = {client: site.examples[client].subset(rows)}
    from polyrank import aggregation  # the method says what is trained

    method = aggregation.configured(config.aggregation)
    trains = parts_of(method, 1, local_head=config.federation.head == "local").trains
    engine = Sequential(site.resident, site.task, examples, site.config.training)
    saved: dict[int, int] = {}
    allocated: dict[int, int] = {}
    seen = Sequential(site.resident, site.task, examples, site.config.training)
    seen.whole = 1  # as one layer is while it is recomputed, which is not seen otherwise
    whole = initial(site.resident, config)
    for rank in levels:
        own = whole if method.info.chooses_indices else whole.prefix(rank)
        work = Work(client, 1, own, seed=0, trains=trains)

        def step(engine: Sequential, work: Work = work) -> object:
            return list(engine.run([work]))

        site.resident.install(work.adapter)  # the step copies it into the same memory, which does not count
        saved[rank] = most_saved(site.resident.model, partial(step, seen))
        held = most_allocated(site.resident.device, partial(step, engine))
        allocated |= {} if held is None else {rank: held}
    longest = int(examples[client].lengths.max())
    return Measured(site.config.training.precision, saved, allocated, longest, len(rows))


def _longest(site: Site) -> tuple[str, np.ndarray]:
    """The client with the longest step, and that step's rows."""
    size = site.config.training.batch_size

    def last(client: str) -> np.ndarray:
        return np.argsort(site.examples[client].lengths, kind="stable")[-size:]

    client = max(sorted(site.examples), key=lambda name: int(site.examples[name].lengths[last(name)].sum()))
    return client, last(client)
