from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from polyrank.aggregation import METHODS
from polyrank.config import TrainingConfig
from polyrank.core.cache import CACHE
from polyrank.training.tuning import remembered
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


def test_an_error_moves_no_terminal(polyrank: Polyrank, tmp_path: Path):
    """It quotes the name of a tensor that somebody else chose."""
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"peft_type": "\\u001b[2J\\u0007"}')
    for path in ("adapter", "\x1b[2Jnothing\x07"):
        result = polyrank("inspect", path)
        assert result.code == 2
        assert result.err.startswith("error: ")
        assert result.err.strip("\n").isprintable()


def test_version(polyrank: Polyrank):
    import polyrank as package

    assert polyrank("--version").out.strip() == f"polyrank {package.__version__}"


def test_methods_lists_the_registry(polyrank: Polyrank, own_things: Path):
    listed = json.loads(polyrank("methods", own_things / "study.toml", "--json").out)
    assert {row["name"] for row in listed} == set(METHODS)
    shown = polyrank("methods", own_things / "study.toml").out
    assert "rank 2 / 4" in shown
    for row in listed:
        assert row["name"] in shown
        assert row["exact"] in shown


def test_methods_count_the_bytes_of_a_configuration(polyrank: Polyrank, own_things: Path):
    """Query and value of two 16 x 16 layers: A or B of rank 2 is 4 * 2 * 16 floats, 512 bytes, of rank 4 1024.

    fedex sends the two rank indices that a client of rank 2 does not train beside it, frozen. A full base change is
    4 * 16 * 32 floats, 8192 bytes.
    """
    settings = ("--set", "federation.head=local", "--json")
    listed = json.loads(polyrank("methods", own_things / "study.toml", *settings).out)
    rows = {row["name"]: row for row in listed}
    found = {name: [tuple(row["bytes"][rank].values()) for rank in ("2", "4")] for name, row in rows.items()}
    both = [(1024, 1024), (2048, 2048)]
    one = [(512, 512), (1024, 1024)]
    assert found["replication"] == found["fedhl"] == both
    assert found["fedex"] == [(1024, 2048), (2048, 2048)]
    assert found["flora"] == [(1024, 0), (2048, 0)]
    assert found["ffa"] == found["fedsa"] == one
    assert found["rolora"] == found["fedsvd"] == [(512, 1024), (1024, 2048)]
    assert {n: r["base_change_at_most"] for n, r in rows.items() if r["base_change_at_most"]} == dict.fromkeys(
        ("flora", "florist", "fedex"), 8192
    )
    assert rows["fedhl"]["base_change"] == "kept"


def test_methods_take_the_options_of_the_configuration(polyrank: Polyrank, own_things: Path):
    """With max_rank 3, a base change is 4 modules of 3 * 32 floats: 1536 bytes; the head comes down too."""
    chosen = ("--set", "aggregation.method=flora", "--set", "aggregation.options={max_rank=3}")
    listed = json.loads(polyrank("methods", own_things / "study.toml", *chosen, "--json").out)
    rows = {row["name"]: row for row in listed}
    assert rows["flora"]["base_change_at_most"] == 1536
    assert rows["florist"]["base_change_at_most"] == 8192
    assert rows["flora"]["bytes"]["2"]["down"] > 0


def test_methods_refuse_an_unknown_method(polyrank: Polyrank, own_things: Path):
    result = polyrank("methods", own_things / "study.toml", "--set", "aggregation.method=floral")
    assert result.code == 2
    assert "flora" in result.err


def test_doctor_lists_and_forgets_what_was_chosen(polyrank: Polyrank, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv(CACHE, str(tmp_path))
    asked = TrainingConfig()
    of = {"work": {"cohort": 3, "examples": 5, "rank": 4}, "training": {"batch_size": 7}}
    remembered.keep(asked, of, asked.model_copy(update={"precision": "float32", "workers": 2}), "")
    (found,) = json.loads(polyrank("doctor", "--choices", "--json").out)
    assert found["chosen"]["workers"] == 2
    shown = polyrank("doctor", "--choices").out
    assert f"1 choices in {tmp_path}" in shown.replace("\n", "")
    assert polyrank("doctor", "--forget").out.startswith("forgotten: 1 choices in")
    assert json.loads(polyrank("doctor", "--choices", "--json").out) == []


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
