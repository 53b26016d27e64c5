from __future__ import annotations

import json
import subprocess
import sys

from polyrank.aggregation import METHODS
from tests.cli.conftest import Polyrank


def test_help_and_import_stay_light():
    """torch alone takes longer to import than help may take to answer."""
    heavy = ("torch", "transformers", "peft", "datasets", "pydantic", "numpy", "plotly", "flwr")
    code = f"import sys, polyrank, polyrank.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_help_names_the_commands(polyrank: Polyrank):
    result = polyrank("--help")
    assert result.code == 0
    for command in ("run", "inspect", "export", "methods", "doctor"):
        assert command in result.out


def test_wrong_use_exits_with_2(polyrank: Polyrank):
    for arguments in (["runn"], ["run", "--ot", "x"], ["export"]):
        result = polyrank(*arguments)
        assert result.code == 2
        assert result.err


def test_version(polyrank: Polyrank):
    import polyrank as package

    assert polyrank("--version").out.strip() == f"polyrank {package.__version__}"


def test_methods_lists_the_registry(polyrank: Polyrank):
    listed = json.loads(polyrank("methods", "--json").out)
    assert {row["name"] for row in listed} == set(METHODS)
    shown = polyrank("methods").out
    for row in listed:
        assert row["name"] in shown


def test_doctor_measures_this_machine(polyrank: Polyrank):
    found = json.loads(polyrank("doctor", "--json").out)
    assert found["torch"]
    assert "GFLOP/s" in found["matrix products"]
    assert isinstance(found["bfloat16 pays"], bool)
    assert polyrank("doctor").code == 0


def test_public_names_resolve():
    import polyrank as package

    for name in package.__all__:
        assert getattr(package, name) is not None
