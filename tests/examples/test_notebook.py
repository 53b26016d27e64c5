"""The notebook, executed as a person would, in an empty folder and without a network."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebook" / "federation.ipynb"
SECONDS = 300


def test_it_is_kept_without_outputs():
    found = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(found)
    assert NOTEBOOK.stat().st_size < 20_000
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in found.cells)


@pytest.mark.slow
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Three live tables, each with its rounds, two plots, a report, and an answer of plain PEFT for each text."""
    for name, value in {"HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join([])}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    made = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(made, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in made.cells if cell.cell_type == "code" for output in cell.outputs]
    shown = [output.data for output in outputs if output.output_type == "display_data"]
    live = [data["text/plain"] for data in shown if "rounds, 12 clients; done" in data.get("text/plain", "")]
    assert [text.split(" on ")[0] for text in live] == ["replication", "zero_padding", "flexlora"]
    assert all([line.split()[0] for line in text.splitlines()[1:]] == ["round", *"123456"] for text in live)
    assert all("<svg" in data["text/html"] for data in shown if data.get("text/plain") in live)
    assert sum(any("plotly" in kind for kind in data) for data in shown) == 2
    text = "".join(output.text for output in outputs if output.output_type == "stream")
    assert text.count(" -> ") == 2
    assert (tmp_path / "report.html").is_file()
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
