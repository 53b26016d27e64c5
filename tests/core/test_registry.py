"""Names of a configuration that come from other installed packages, each with its metadata as pip writes it."""

from __future__ import annotations

import sys
from abc import ABC
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from polyrank.core.errors import ConfigError
from polyrank.core.registry import Registry


class Fruit(ABC):  # noqa: B024  # what others subclass
    name = "fruit"


@dataclass(frozen=True)
class Apple(Fruit):
    name = "apple"


MODULE = """
from dataclasses import dataclass
from tests.core.test_registry import Fruit

@dataclass(frozen=True)
class Pear(Fruit):
    size: int = 3
    name = "pear"

@dataclass(frozen=True)
class Stone:
    name = "stone"

class Bare(Fruit):
    name = "bare"

word = "no class"
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path with a module ``orchard``."""
    (tmp_path / "orchard.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("orchard", None)


def installed(folder: Path, package: str, *lines: str) -> None:
    """As pip installs a package with these entry points."""
    about = folder / f"{package}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("\n".join(["[tests.fruit]", *lines]))


def registry() -> Registry[Fruit]:
    return Registry("fruit", {"apple": Apple}, group="tests.fruit", base=Fruit, name_of=lambda cls: cls.name)


def test_another_package_s_class_is_one_like_ours(site: Path):
    installed(site, "garden", "pear = orchard:Pear")
    found = registry()
    assert "orchard" not in sys.modules
    assert (list(found), len(found), "pear" in found, "plum" in found) == (["apple", "pear"], 2, True, False)
    assert found.options("pear") == {"size": "int"}
    assert str(found.build("pear", {"size": "5"})) == "Pear(size=5)"
    assert found["apple"] is Apple
    with pytest.raises(ConfigError, match="there is no fruit 'paer': did you mean 'pear'"):
        found.named("paer")
    with pytest.raises(KeyError):
        found["paer"]


def test_without_a_group_nobody_adds_any(site: Path):
    installed(site, "garden", "pear = orchard:Pear")
    assert list(Registry("fruit", {"apple": Apple})) == ["apple"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("plum = orchard:Plum", r"fruit 'plum' of the package garden cannot be loaded: AttributeError: .*; mend or un"),
        ("plum = nowhere:Plum", "cannot be loaded: ModuleNotFoundError: No module named 'nowhere'"),
        (
            "stone = orchard:Stone",
            r"fruit 'stone' of the package garden is <class .*; expected a dataclass that is",
        ),
        ("bare = orchard:Bare", "expected a dataclass that is a Fruit"),
        ("word = orchard:word", "is 'no class'; expected a dataclass"),
        ("plum = orchard:Pear", "fruit 'plum' of the package garden calls itself 'pear'; expected the name of its"),
    ],
)
def test_what_is_none_is_refused_when_it_is_asked_for(site: Path, line: str, said: str):
    installed(site, "garden", line)
    found = registry()
    assert found.build("apple") == Apple()
    with pytest.raises(ConfigError, match=said):
        found.named(line.partition(" ")[0])


def test_one_name_stands_for_one_class(site: Path):
    installed(site, "garden", "apple = orchard:Pear", "pear = orchard:Pear")
    installed(site, "market", "pear = orchard:Pear")
    found = registry()
    with pytest.raises(ConfigError, match="fruit 'apple' is of the package garden and of PolyRank; uninstall all but"):
        found.named("apple")
    with pytest.raises(ConfigError, match=r"is of the package \w+ and of the package \w+; uninstall"):
        found.named("pear")


@pytest.mark.parametrize(
    ("module", "name", "group"),
    [
        ("polyrank.aggregation", "METHODS", "polyrank.methods"),
        ("polyrank.aggregation.robust.registry", "RULES", "polyrank.robust_rules"),
        ("polyrank.ranks", "POLICIES", "polyrank.rank_policies"),
        ("polyrank.data", "PARTITIONS", "polyrank.partitions"),
        ("polyrank.tasks", "TASKS", "polyrank.tasks"),
    ],
)
def test_groups(module: str, name: str, group: str):
    """The groups that CONTRIBUTING names."""
    from importlib import import_module

    assert getattr(import_module(module), name)._group == group
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert f"`{group}`" in text
