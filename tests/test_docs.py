from __future__ import annotations

import importlib.util
import re
import sys
import textwrap
import types
from pathlib import Path
from typing import Any, get_args

import pytest

ROOT = Path(__file__).parents[1]


def generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", generator().PAGES)
def test_generated_parts_are_up_to_date(page: str):
    """`python docs/generate.py` brings them up to date."""
    text = (ROOT / page).read_text(encoding="utf-8")
    assert "<!-- begin " in text
    assert generator().updated(text) == text


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")], ids=lambda path: path.name)
def test_links_inside_the_repository_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_toml_in_the_guide_is_valid():
    from polyrank import config

    text = (ROOT / "docs" / "own-data.md").read_text(encoding="utf-8")
    example = "\n".join(line[4:] for line in text.splitlines() if line.startswith("    "))
    import tomllib

    assert config.parse(tomllib.loads(example), "own-data.md").ranks.levels == [4, 8, 16]


def from_contributing(index: int) -> dict[str, Any]:
    """What one of the examples defines, run as it stands there."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    example = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)[index]
    module = types.ModuleType(f"contributing_{index}")
    sys.modules[module.__name__] = module  # where dataclasses look for the names in annotations
    exec(compile(textwrap.dedent(example), "CONTRIBUTING.md", "exec", dont_inherit=True), module.__dict__)
    return module.__dict__


def test_the_method_in_contributing_works():
    """Two owners of weights 1 and 2, rows 10 and 4: weights squared give (1 * 10 + 4 * 4) / 5 = 5.2."""
    import torch

    from polyrank import Adapter, ClientUpdate, Factors, ServerState
    from polyrank.aggregation.method import Exactness, Method
    from tests.conformance.fixtures import conclude

    cls = from_contributing(0)["SquaredWeights"]
    assert issubclass(cls, Method)
    assert cls.info.exact in get_args(Exactness)

    def line(value: float) -> Adapter:
        return Adapter({"layer": Factors(torch.tensor([[value]]), torch.ones(1, 1))})

    updates = [ClientUpdate("a", line(10.0), 1.0), ClientUpdate("b", line(4.0), 2.0)]
    found = conclude(cls(), ServerState(0, line(0.0), {}, {}), updates).adapter
    assert found.modules["layer"].a.item() == pytest.approx(5.2)


def test_the_rank_policy_in_contributing_works(monkeypatch: pytest.MonkeyPatch):
    """Levels 5 and 20, every third of four clients: the first and the fourth; the option is read from ``[ranks]``."""
    from polyrank import load_config
    from polyrank.core.registry import Registry
    from polyrank.ranks import POLICIES, policy, registry

    own = Registry("rank policy", {**POLICIES, "in_turns": from_contributing(1)["InTurns"]}, given=("config",))
    monkeypatch.setattr(registry, "POLICIES", own)
    chosen = policy(load_config(None, ["ranks.policy=in_turns", "ranks.options={every=3}"]).ranks)
    assert chosen.start(["b", "a", "d", "c"], {}, 0) == {"a": 20, "b": 5, "c": 5, "d": 20}


def test_the_partition_in_contributing_works(monkeypatch: pytest.MonkeyPatch):
    """Seven examples, of which one is left out, over two clients: the first three and the next three."""
    import numpy as np

    from polyrank.core.registry import Registry
    from polyrank.data import PARTITIONS, TextDataset, partition
    from polyrank.data.partitions import registry

    own = Registry("partition", {**PARTITIONS, "in-order": from_contributing(2)["InOrder"]})
    monkeypatch.setattr(registry, "PARTITIONS", own)
    data = TextDataset(tuple("abcdefg"), np.zeros(7, dtype=np.int64), ("x",))
    found = partition(data, "in-order", 2, seed=0, options={"left_out": 1})
    assert {client: at.tolist() for client, at in found.examples.items()} == {
        "client-00": [0, 1, 2],
        "client-01": [3, 4, 5],
    }
