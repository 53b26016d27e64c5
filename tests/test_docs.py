from __future__ import annotations

import importlib.util
import re
import textwrap
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


def test_the_method_in_contributing_works():
    """Two owners of weights 1 and 2, rows 10 and 4: weights squared give (1 * 10 + 4 * 4) / 5 = 5.2."""
    import torch

    from polyrank import Adapter, ClientUpdate, Factors, ServerState
    from polyrank.aggregation.method import Exactness, Method
    from tests.conformance.fixtures import conclude

    (example,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), flags=re.DOTALL
    )
    names: dict[str, Any] = {"__name__": "squared_weights"}
    exec(compile(textwrap.dedent(example), "CONTRIBUTING.md", "exec", dont_inherit=True), names)

    cls = names["SquaredWeights"]
    assert issubclass(cls, Method)
    assert cls.info.exact in get_args(Exactness)

    def line(value: float) -> Adapter:
        return Adapter({"layer": Factors(torch.tensor([[value]]), torch.ones(1, 1))})

    updates = [ClientUpdate("a", line(10.0), 1.0), ClientUpdate("b", line(4.0), 2.0)]
    found = conclude(cls(), ServerState(0, line(0.0), {}, {}), updates).adapter
    assert found.modules["layer"].a.item() == pytest.approx(5.2)
