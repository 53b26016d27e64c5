"""Precision and attention: the forms in which a base may be computed, and which of them are worth a trial here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from polyrank.config import TrainingConfig
from polyrank.core.errors import ModelError
from polyrank.core.machine import gflops
from polyrank.hf.resident import ResidentModel
from polyrank.training.tuning.saved import free_memory

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CLEARLY = 3.0
"""A precision whose products are so many times as fast is not compared with the other: what is not a product takes less
time in it too. With AMX bfloat16 is seven times as fast as float32 (``docs/speed.md``), with AVX-512 twice."""

Load = Callable[[torch.dtype, str], ResidentModel]
"""``(dtype, attention)`` -> a base with LoRA in place."""


@dataclass(frozen=True)
class Form:
    """How a base is computed."""

    precision: str
    attention: str

    def __str__(self) -> str:
        return f"{self.precision} with {self.attention} attention"


def precisions(options: TrainingConfig) -> Sequence[str]:
    """Those that may be the fastest here, the likelier first.

    On a GPU that has bfloat16 nothing else is tried: one client's steps may be too small to show what a pass of many
    gains by it. On a CPU the rates of products decide: a machine that has bfloat16 in name only does not try it.
    """
    if options.precision != "auto":
        return [options.precision]
    if torch.cuda.is_available():
        return ["bfloat16"] if torch.cuda.is_bf16_supported() else ["float32"]
    gain = gflops(torch.bfloat16) / gflops(torch.float32)
    log.info("products in bfloat16 are %.1f times as fast as in float32", gain)
    if gain < 1:
        return ["float32"]
    return ["bfloat16"] if gain >= CLEARLY else ["bfloat16", "float32"]


def attentions(options: TrainingConfig, precision: str) -> Sequence[str]:
    """Those that may be the fastest, the likelier first: on a CPU the fused one is slow backwards in bfloat16."""
    if options.attention != "auto":
        return [options.attention]
    fused_last = precision == "bfloat16" and not torch.cuda.is_available()
    return ["eager", "sdpa"] if fused_last else ["sdpa", "eager"]


class Bases:
    """The base in each form, loaded once for each precision, when it is first asked for.

    Args:
        load: loads it.
        options: ``precision`` and ``attention``; what is not ``auto`` is taken as it is.

    Raises:
        ModelError: the architecture has none of the attentions that are asked for.
    """

    def __init__(self, load: Load, options: TrainingConfig) -> None:
        self._held: dict[str, ResidentModel] = {}
        self.forms: list[Form] = []
        for precision in precisions(options):
            wanted = attentions(options, precision)
            if self._held and not self._fits():
                log.info("%s is not tried: the base does not fit into memory a second time", precision)
                continue
            # every architecture has eager attention, not all have sdpa
            base = load(DTYPES[precision], "eager" if "eager" in wanted else wanted[0])
            found = [Form(precision, one) for one in wanted if len(wanted) == 1 or base.set_attention(one)]
            self._held[precision] = base
            self.forms += found
        if not self.forms:
            raise ModelError("the model has no attention that could be used; set training.attention")

    def base(self, form: Form) -> ResidentModel:
        """The base in this form; it is what any other form of its precision was."""
        base = self._held[form.precision]
        base.set_attention(form.attention)
        return base

    def _fits(self) -> bool:
        base = next(iter(self._held.values()))
        weights = sum(parameter.numel() for parameter in base.model.parameters())
        return 4 * weights * 2 < free_memory(base.device)  # in float32, and as much again to compute with
