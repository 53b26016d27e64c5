"""Server optimisers once more, from docs/methods.md: number by number, in float64, with loops."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

Array = np.ndarray
Memory = dict[str, Array]
"""``m/<tensor>`` and ``v/<tensor>``."""
DEFAULTS = {
    "momentum": {"beta1": 0.9},
    "adagrad": {"beta1": 0.0, "tau": 1e-3},
    "adam": {"beta1": 0.9, "beta2": 0.99, "tau": 1e-3},
    "yogi": {"beta1": 0.9, "beta2": 0.99, "tau": 1e-3},
}


def number(name: str, o: Mapping[str, float], d: float, m: float, v: float) -> tuple[float, float, float]:
    """Step, m and v of one number."""
    if name == "momentum":
        m = o["beta1"] * m + d
        return m, m, v
    m = o["beta1"] * m + (1 - o["beta1"]) * d
    if name == "adagrad":
        v = v + d * d
    elif name == "adam":
        v = o["beta2"] * v + (1 - o["beta2"]) * d * d
    else:
        sign = (v > d * d) - (v < d * d)
        v = v - (1 - o["beta2"]) * d * d * sign
    return m / (math.sqrt(v) + o["tau"]), m, v


def step(
    name: str,
    options: Mapping[str, float],
    lr: float,
    *,
    before: Mapping[str, Array],
    after: Mapping[str, Array],
    kept: Memory,
) -> dict[str, Array]:
    """The tensors after the step; ``kept`` is brought to what it is then.

    Args:
        name: of the optimiser.
        options: of it, where they are not the defaults.
        lr: the server's learning rate.
        before: tensors that are averaged, before the round. A row of A, a column of B and a tensor of the head are each
            left alone where nothing in them changed.
        after: what the method made of them.
        kept: moments.
    """
    o, out = DEFAULTS[name] | dict(options), {}
    for key, old in before.items():
        out[key] = old.copy()
        m = kept.get(f"m/{key}", np.zeros_like(old))
        v = kept.get(f"v/{key}", np.full_like(old, o.get("tau", 0.0) ** 2))
        touched = False
        for place in np.ndindex(old.shape):
            group: tuple[slice | int, ...] = (slice(None),) * old.ndim
            if key.endswith(".a"):
                group = (place[0], slice(None))
            if key.endswith(".b"):
                group = (slice(None), place[1])
            if not any((after[key][group] - old[group]).ravel()):
                continue
            if not touched:
                touched, m, v = True, m.copy(), v.copy()
            d = float(after[key][place] - old[place])
            moved, m[place], v[place] = number(name, o, d, float(m[place]), float(v[place]))
            out[key][place] = old[place] + lr * moved
        if touched:
            kept[f"m/{key}"] = m
            if name != "momentum":
                kept[f"v/{key}"] = v
    return out
