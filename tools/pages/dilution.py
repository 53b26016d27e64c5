"""The picture of what the project is for, which moves: one client of rank 20, four of rank 5, two ways to average.

``python docs/generate.py`` writes it to docs/images/why.svg. Its numbers are computed by the methods themselves, over
rounds in which the clients agree on the rows that they share and nobody learns anything new.
"""

from __future__ import annotations

import torch

from polyrank.aggregation import METHODS
from polyrank.aggregation.diagnostics import row_energy
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.state import ClientUpdate, ServerState
from polyrank.federation.tree import Node

RANKS = (20, 5, 5, 5, 5)
ROUNDS = 3
STEPS = (
    "1  Each client trains as many rank indices as it can.",
    "2  What a client lacks: zeros here, the wide client's there.",
    "3  The mean is the new adapter.",
    f"4  The same after {ROUNDS} rounds.",
)
SECONDS = 4
"""That a step is seen for."""
CELL, WIDE, LEFT, TOP, PANEL = 13, 26, 30, 66, 232
"""Heights, widths and places in the picture's own units."""
STYLE = f"""
.paper {{ fill: #ffffff }}
text {{ font: 12px sans-serif; fill: #37474f }}
.small {{ font-size: 10px }}
path {{ stroke-width: {WIDE}; stroke-dasharray: {CELL - 2} 2 }}
.own {{ stroke: #00796b }} .taken {{ stroke: #ef6c00 }} .none {{ stroke: #b0bec5; stroke-opacity: 0.4 }}
@media (prefers-color-scheme: dark) {{
.paper {{ fill: #1e2129 }} text {{ fill: #cfd8dc }}
.own {{ stroke: #4db6ac }} .taken {{ stroke: #ffb74d }} .none {{ stroke: #607d8b }}
}}
"""


def left(method: str, rounds: int) -> list[float]:
    """What is left of each rank index's product ``|b_j| |a_j|`` after so many rounds, as a share of the first."""
    top = max(RANKS)
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((top, 32), (24, top)))
    names = [f"client-{k}" for k in range(len(RANKS))]
    whole = Adapter({"layer": Factors(a, b)})
    state = ServerState(0, whole, dict(zip(names, RANKS, strict=True)), dict.fromkeys(names, 1.0))
    for _ in range(rounds):
        node = Node(state, METHODS[method](), names)
        for name in names:
            node.add(ClientUpdate(name, state.adapter.prefix(state.ranks[name]), 1.0))
        state = node.finish().state
    pairs = zip(row_energy(state.adapter), row_energy(whole), strict=True)
    return [(now / before) ** 0.5 for now, before in pairs]


def svg() -> str:
    """The picture; where a reader wants no motion it shows its last step."""
    width, height = 2 * PANEL + 8, TOP + max(RANKS) * CELL + 64
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        "<title>What zero padding and replication make of the rows of the client of the highest rank</title>",
        f"<style>{STYLE}{_motion()}</style>",
        f'<rect class="paper" width="{width}" height="{height}"/>',
    ]
    for step, said in enumerate(STEPS, start=1):
        lines += [f'<g class="step s{step}">', f'<text x="4" y="18">{said}</text>']
        for at, method in enumerate(("zero_padding", "replication")):
            lines += _panel(method, step, at * (PANEL + 8))
        lines.append("</g>")
    return "\n".join([*lines, "</svg>", ""])


def _motion() -> str:
    whole, part = SECONDS * len(STEPS), 100 / len(STEPS)
    rules = [
        f"@keyframes seen {{ 0%, {part - 1:g}% {{ opacity: 1 }} {part:g}%, 99% {{ opacity: 0 }}",
        "100% { opacity: 1 } }",
        f".step {{ opacity: 0; animation: seen {whole}s infinite }}",
        *(f".s{i + 1} {{ animation-delay: {i * SECONDS - whole * (i > 0)}s }}" for i in range(len(STEPS))),
        f"@media (prefers-reduced-motion: reduce) {{ .step {{ animation: none }} .s{len(STEPS)} {{ opacity: 1 }} }}",
    ]
    return "\n".join(rules)


def _panel(method: str, step: int, x: int) -> list[str]:
    top = max(RANKS)
    lines = [f'<text x="{x + LEFT}" y="42">{method}</text>']
    lines += [
        f'<text class="small" x="{x + LEFT - 6}" y="{TOP + j * CELL + 10}" text-anchor="end">{j + 1}</text>'
        for j in (0, 4, 9, 14, 19)
    ]
    lacking = "none" if step == 1 or method == "zero_padding" else "taken"
    for k, rank in enumerate(RANKS):
        at = x + LEFT + k * (WIDE + 4) + WIDE // 2
        lines.append(f'<text class="small" x="{at}" y="58" text-anchor="middle">{rank}</text>')
        faded = 1.0 if step < 3 else 0.35
        lines += [_cells("own", at, 0, rank, faded), *([_cells(lacking, at, rank, top, faded)] * (rank < top))]
    if step < 3:
        return lines
    kept = left(method, 1 if step == 3 else ROUNDS)
    at = x + LEFT + len(RANKS) * (WIDE + 4) + WIDE // 2 + 8
    lines.append(f'<text class="small" x="{at}" y="58" text-anchor="middle">new</text>')
    for first, last in ((0, min(RANKS)), (min(RANKS), top)):
        lines += [_cells("none", at, first, last, 1.0), _cells("own", at, first, last, kept[first])]
        said = f"rank indices {first + 1} to {last}: {_percent(kept[first])} left"
        lines.append(f'<text x="{x + 4}" y="{TOP + top * CELL + (20 if first == 0 else 37)}">{said}</text>')
    return lines


def _percent(share: float) -> str:
    return "100 %" if share > 0.995 else f"{100 * share:.2g} %"


def _cells(kind: str, middle: int, first: int, last: int, opacity: float) -> str:
    """Rank indices of one column, as one dashed line."""
    shown = "" if opacity == 1 else f' opacity="{opacity:.3g}"'
    return f'<path class="{kind}" d="M{middle} {TOP + first * CELL + 1}v{(last - first) * CELL - 2}"{shown}/>'
