"""What a shell is given at a TAB, and that it costs no heavy import."""

from __future__ import annotations

import subprocess
import sys

import pytest

from polyrank.aggregation import METHODS
from polyrank.cli import completing
from polyrank.config import Config
from tests.cli.conftest import Polyrank


def completed(polyrank: Polyrank, monkeypatch: pytest.MonkeyPatch, words: str) -> list[str]:
    """What bash is given for the last word of a line."""
    monkeypatch.setenv("_POLYRANK_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    found = polyrank()
    assert (found.code, found.err) == (0, "")
    return found.out.split()


def test_the_files_of_methods_are_the_registry():
    """So their names can be completed without torch."""
    assert completing.methods("") == sorted(METHODS)


def test_every_key_of_the_configuration_is_completed():
    keys = [f"{name}.{key}=" for name, field in Config.model_fields.items() for key in field.annotation.model_fields]
    assert sorted(completing.settings("")) == sorted(keys)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("polyrank sche", ["schema"]),
        ("polyrank merge --method fle", ["flexlora"]),
        ("polyrank compare --methods replication,flo", ["replication,flora", "replication,florist"]),
        ("polyrank run --quickstart gen", ["generative"]),
        ("polyrank run --set aggregation.me", ["aggregation.method="]),
        ("polyrank plan --set ranks.scaling=", [f"ranks.scaling={one}" for one in ("constant", "lora", "rslora")]),
        ("polyrank data --set secure.enabled=t", ["secure.enabled=true"]),
        ("polyrank run --set training.engine=ba", ["training.engine=batched"]),
        ("polyrank run --set aggregation.method=own", ["aggregation.method=owner_mean"]),
        ("polyrank run --set nobody.knows=", []),
    ],
)
def test_words_are_completed(polyrank: Polyrank, monkeypatch: pytest.MonkeyPatch, words: str, found: list[str]):
    assert completed(polyrank, monkeypatch, words) == found


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_script(polyrank: Polyrank, monkeypatch: pytest.MonkeyPatch, shell: str):
    """Where the shell is not asked for by name, as in a test, its name is the option's value."""
    monkeypatch.setenv("_POLYRANK_COMPLETE", f"source_{shell}")
    found = polyrank()
    assert found.code == 0
    assert f"_POLYRANK_COMPLETE=complete_{shell}" in found.out


def test_a_tab_loads_nothing_heavy():
    heavy = ("torch", "transformers", "pydantic", "numpy")
    code = (
        "import sys; from polyrank.cli import completing as own; own.settings(''); own.methods(''); "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
