"""An adapter that servers read right: one rank, one scale, nothing that differs from module to module.

vLLM's ``PEFTHelper`` keeps ``r``, ``lora_alpha`` and ``use_rslora`` and drops ``rank_pattern`` and ``alpha_pattern``;
its ``max_lora_rank`` is one of a few ranks (vllm/config/lora.py). llama.cpp reads ``lora_alpha`` as one float32 number
and divides it by the rank of each tensor (llama-adapter.h). With one of those ranks and one alpha, a whole number,
both compute what PEFT does.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from polyrank.core import lowrank
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import AdapterError
from polyrank.hf.peft.patterns import rank_settings

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's ``max_lora_rank`` may be."""


def portable_rank(rank: int) -> int:
    """The lowest of `RANKS` that holds a rank.

    Raises:
        AdapterError: none does.
    """
    for known in RANKS:
        if rank <= known:
            return known
    raise AdapterError(
        f"the adapter has rank {rank}, and servers such as vLLM take {RANKS[-1]} at most; take --rank {RANKS[-1]}, its "
        "best approximation, --merged, the whole model, or --exact-ranks, an adapter for PEFT alone"
    )


def portable(adapter: Adapter) -> Adapter:
    """The same update with every module at one rank out of `RANKS` and under one scale, alpha a whole number.

    Ranks are filled up with zeros. The scale is the one that most modules have, where it gives a whole alpha, and else
    the nearest that does; B takes up the difference, in float32 where the adapter's own dtype would round it.

    Raises:
        AdapterError: as `portable_rank`.
    """
    rank = portable_rank(adapter.rank)
    scales = Counter(abs(factors.scale) for factors in adapter.modules.values())
    usual = scales.most_common(1)[0][0] if scales else 1.0
    scale = max(round(usual * rank), 1) / rank
    modules = {name: _padded(_under(factors, scale), rank) for name, factors in adapter.modules.items()}
    return Adapter(modules, adapter.dense)


def portable_settings(adapter: Adapter) -> dict[str, Any]:  # Any: JSON values
    """`rank_settings` of an adapter that `portable` made, with alpha as servers declare it: a whole number."""
    found = rank_settings(adapter)
    alpha = found["lora_alpha"]
    return {**found, "lora_alpha": int(alpha) if float(alpha).is_integer() else alpha}


def _under(factors: Factors, scale: float) -> Factors:
    """The same delta under another scale, to float32's last digit."""
    ratio = factors.scale / scale
    if ratio == 1:
        return factors
    wide = factors.map(lambda tensor: tensor.to(lowrank.wide(tensor.dtype)))
    b = (wide.b.double() * ratio).to(wide.b.dtype)
    narrow = b.to(factors.b.dtype)
    if torch.equal(narrow.to(b.dtype), b):
        return Factors(factors.a, narrow, scale)
    return Factors(wide.a, b, scale)


def _padded(factors: Factors, rank: int) -> Factors:
    more = rank - factors.rank
    a = torch.cat([factors.a, factors.a.new_zeros(more, factors.d_in)])
    return Factors(a, torch.cat([factors.b, factors.b.new_zeros(factors.d_out, more)], dim=1), factors.scale)
