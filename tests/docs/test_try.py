"""The numbers of the page "Try it" are the library's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import polyrank
from polyrank import Adapter, ClientUpdate, Factors, ServerState
from polyrank.aggregation.diagnostics import aggregation_error, row_energy
from polyrank.core.errors import PolyRankError
from tests.conformance.fixtures import conclude
from tests.docs.javascript import evaluated

ASSETS = Path(__file__).parents[2] / "docs" / "assets"
CASES: Sequence[tuple[list[int], list[float]]] = (
    ([20, 5, 5, 5, 5], [1, 1, 1, 1, 1]),
    ([20, 5, 5, 5, 5], [10, 1, 2, 3, 1]),
    ([3, 17, 8, 8, 1], [1, 4, 1, 9, 2]),
    ([7, 7, 7, 7, 7], [3, 1, 4, 1, 5]),
    ([20, 20, 1, 1, 12], [2, 5, 1, 1, 1]),
)
METHODS: Sequence[tuple[str, Mapping[str, Any]]] = (
    *((name, {}) for name in ("fedavg", "zero_padding", "zero_padding_delta", "replication", "owner_mean", "flexlora")),
    *(("tempered", {"gamma": gamma}) for gamma in (0.0, 0.3, 1.0)),
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the page computes: of each case its round, and of each method the result, its error and its energies."""
    methods = [[name, {"gamma": 0.5, **options}] for name, options in METHODS]
    made = f"""
    {json.dumps(list(CASES))}.map(([ranks, weights], at) => {{
      const round = PolyRank.example(ranks, weights, at + 1);
      const results = {json.dumps(methods)}.map(([method, options]) => {{
        try {{
          const found = PolyRank.aggregate(method, round, options);
          const [delta, error] = [PolyRank.delta(found), PolyRank.error(round, found)];
          return {{ delta, error, energy: PolyRank.energy(found) }};
        }} catch (error) {{ return {{ refused: error.message }}; }}
      }});
      return {{ round, results }};
    }})
    """
    return evaluated(ASSETS / "aggregate.js", made, tmp_path_factory.mktemp("page"))


def adapter(found: Mapping[str, Any]) -> Adapter:
    a, b = (torch.tensor(found[key], dtype=torch.float64) for key in "ab")
    return Adapter({"layer": Factors(a, b, found["scale"])})


@pytest.mark.parametrize("method", range(len(METHODS)), ids=[f"{name}{options or ''}" for name, options in METHODS])
@pytest.mark.parametrize("case", range(len(CASES)))
def test_every_number_is_that_of_the_library(page: Any, case: int, method: int):
    """Products to 1e-9 and errors to 1e-8; energies, but where the singular values lie close, to 1e-6."""
    (ranks, weights), (name, options) = CASES[case], METHODS[method]
    round_, shown = page[case]["round"], page[case]["results"][method]
    names = [f"client-{k}" for k in range(len(ranks))]
    server = ServerState(0, adapter(round_["previous"]), dict(zip(names, ranks, strict=True)), {})
    updates = [
        ClientUpdate(name, adapter(client), float(weight))
        for name, client, weight in zip(names, round_["clients"], weights, strict=True)
    ]
    assert [update.adapter.rank for update in updates] == ranks
    chosen = polyrank.method(name, options)
    if name == "fedavg" and len(set(ranks)) > 1:
        with pytest.raises(PolyRankError, match="fedavg needs equal ranks"):
            conclude(chosen, server, updates)
        assert shown == {"refused": "fedavg needs equal ranks"}
        return
    ours = conclude(chosen, server, updates).adapter
    wanted = ours.modules["layer"].delta()
    off = (torch.tensor(shown["delta"], dtype=torch.float64) - wanted).norm() / wanted.norm()
    assert float(off) < 1e-9
    assert shown["error"] == pytest.approx(aggregation_error(updates, ours).total, abs=1e-8)
    assert shown["energy"] == pytest.approx(row_energy(ours), rel=1e-6, abs=1e-9)


def test_the_page_offers_these_methods_and_the_library_has_them(tmp_path: Path):
    offered = evaluated(ASSETS / "aggregate.js", "PolyRank.METHODS", tmp_path)
    assert sorted(offered) == sorted({name for name, _ in METHODS})
    assert set(offered) <= set(polyrank.METHODS)
