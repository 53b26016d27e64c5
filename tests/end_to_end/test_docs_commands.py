"""The commands of docs/, page by page, each as it is written, in a folder that has what they name.

Pages: comparing.md, generating.md, merging.md, own-data.md, planning.md, run-folder.md, serving.md, start.md,
writing.md. Those of README are in test_readme_commands.py, those of hour.md in tests/deployment/test_hour.py.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model

from polyrank import config as configuration
from polyrank.runs.runner import run as run_federation
from tests import models, writers
from tests.conftest import Configure
from tests.docs.blocks import ROOT, blocks, commands
from tests.end_to_end.test_readme_commands import reviews, run

pytestmark = [pytest.mark.slow, pytest.mark.long]


def typed(page: str) -> list[str]:
    """The commands of a page that have no reason not to be run."""
    found = [block for block in blocks(ROOT / "docs" / page) if block.kind == "commands" and not block.reason]
    return [command for block in found for command in commands(block.text)]


def python(page: str) -> str:
    """The one example in Python that is run."""
    (found,) = [block for block in blocks(ROOT / "docs" / page) if block.kind == "python" and not block.reason]
    return found.text


def classifier(folder: Path, configure: Configure, *overrides: str) -> None:
    """`study.toml`: six clients of a tiny BERT; three rounds."""
    folder.mkdir(exist_ok=True)
    (folder / "study.toml").write_text(configuration.dump(configure(*overrides)), encoding="utf-8")


def adapters(folder: Path) -> None:
    """Adapters of a tiny DistilBERT under the names of merging.md."""
    from transformers import AutoModelForSequenceClassification

    base = models.save(folder / "base", "distilbert")
    for number, name in enumerate(("a", "b", "adapters/law", "adapters/medicine", "adapters/news")):
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
        settings = LoraConfig(task_type="SEQ_CLS", r=2 + number, target_modules=["q_lin"], init_lora_weights=False)
        get_peft_model(model, settings).save_pretrained(folder / name)


def chat(folder: Path) -> None:
    """A finished run of a model that writes, `runs/chat`, and its configuration, `study.toml`."""
    study = writers.study(folder / "study") / "study.toml"
    run_federation(configuration.load(study), folder / "runs" / "chat")
    shutil.copy(study, folder / "study.toml")


def test_comparing(tmp_path: Path, configure: Configure):
    classifier(tmp_path, configure, "federation.rounds=1", "ranks.validation_per_label=5")
    said = {command: run(command, tmp_path) for command in typed("comparing.md")}
    assert any("Take " in text for text in said.values())
    found = json.loads((tmp_path / "runs" / "study" / "comparison.json").read_text(encoding="utf-8"))
    names = {row["name"] for row in found["methods"]}
    assert {"replication", "zero_padding", "flexlora"} <= names


def test_own_data(tmp_path: Path):
    """The name of the model is a folder here, with a small one in it."""
    reviews(tmp_path)
    (study,) = [block for block in blocks(ROOT / "docs" / "own-data.md") if block.kind == "toml"]
    first, *others = typed("own-data.md")
    run(first, tmp_path)  # polyrank init, whose file is another one
    (tmp_path / "study.toml").write_text(study.text, encoding="utf-8")
    for command in others:
        run(command, tmp_path)
    assert json.loads((tmp_path / "runs" / "study" / "summary.json").read_text(encoding="utf-8"))["rounds"] == 40
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))["r"] == 8


def test_planning(tmp_path: Path, configure: Configure):
    classifier(tmp_path, configure)
    said = {command: run(command, tmp_path) for command in typed("planning.md")}
    for command, text in said.items():
        assert ("levels = [" in text) or not ("--uplink" in command or "--memory" in command), command
    assert any("--uplink" in command for command in said)


def test_merging(tmp_path: Path):
    adapters(tmp_path)
    for command in typed("merging.md"):
        run(command, tmp_path)
    assert json.loads((tmp_path / "narrow" / "adapter_config.json").read_text(encoding="utf-8"))["r"] == 8
    shutil.rmtree(tmp_path / "merged")
    (tmp_path / "example.py").write_text(f"import polyrank\n\n{python('merging.md')}\n", encoding="utf-8")
    run("python example.py", tmp_path)
    assert (tmp_path / "merged" / "adapter_model.safetensors").is_file()


def test_run_folder(tmp_path: Path, configure: Configure):
    kept = ("aggregation.method=fedsa", "federation.clients=10", "federation.participation=1.0", "federation.rounds=1")
    run_federation(configure(*kept, "ranks.counts=[8,2]"), tmp_path / "runs" / "study")
    (command,) = typed("run-folder.md")
    run(command, tmp_path)
    assert (tmp_path / "client-07" / "adapter_model.safetensors").is_file()


def test_start(tmp_path: Path, configure: Configure):
    """What to look at after a quickstart, of a smaller run under its name."""
    run_federation(configure(), tmp_path / "runs" / "quickstart-001")
    for command in typed("start.md"):
        run(command, tmp_path)
    assert (tmp_path / "runs" / "quickstart-001" / "report.html").is_file()


def test_serving(tmp_path: Path):
    chat(tmp_path)
    for command in typed("serving.md"):
        run(command, tmp_path)
    example = python("serving.md").replace('"BASE"', f'"{tmp_path / "study" / "llama"}"')
    (tmp_path / "example.py").write_text(example, encoding="utf-8")
    assert "Why is the sky blue?" in run("python example.py", tmp_path)


def test_generating(tmp_path: Path, configure: Configure):
    chat(tmp_path)
    run("polyrank export runs/chat -o adapter && polyrank export runs/chat -o model --merged", tmp_path)
    run_federation(configure(), tmp_path / "runs" / "reviews")
    writers.write(tmp_path / "other.jsonl", writers.pairs(12))
    (tmp_path / "prompts.txt").write_text("What colour is the house?\nSay red.\n", encoding="utf-8")
    with (tmp_path / "new.csv").open("w", newline="", encoding="utf-8") as file:
        toy = models.toy(24)
        rows = zip(toy.texts, toy.labels, strict=True)
        csv.writer(file).writerows([["text", "label"], *([text, toy.label_names[label]] for text, label in rows)])
    said: Mapping[str, str] = {command: run(command, tmp_path) for command in typed("generating.md")}
    assert len(said) == 9
    assert any("⟦" in text for text in said.values())
    assert len((tmp_path / "classes.csv").read_text(encoding="utf-8").splitlines()) == 25


def test_writing(tmp_path: Path):
    """The name of the model is a folder here, with a small one in it."""
    writers.save(tmp_path / "HuggingFaceTB" / "SmolLM2-135M-Instruct", hidden_size=64, intermediate_size=96)
    (study,) = [block for block in blocks(ROOT / "docs" / "writing.md") if block.kind == "toml"]
    (tmp_path / "support.toml").write_text(study.text, encoding="utf-8")
    rows = [conversation(row) for row in writers.pairs(48)]
    writers.write(tmp_path / "support.jsonl", rows)
    writers.write(tmp_path / "other.jsonl", rows[:8])
    for command in typed("writing.md"):
        run(command, tmp_path)
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert (settings["r"], settings["task_type"]) == (32, "CAUSAL_LM")


def conversation(row: Mapping[str, str]) -> dict[str, object]:
    """A pair as writing.md has it, with its owner as the department."""
    turns = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
    return {"messages": turns, "department": row["owner"]}


def test_every_page_is_here():
    """Each page of the docstring has a test of its name."""
    here: Mapping[str, Callable[..., None]] = {name: value for name, value in globals().items() if callable(value)}
    pages = " ".join((__doc__ or "").split()).partition("Pages: ")[2].partition(". Those")[0].split(", ")
    assert len(pages) == 9
    for page in pages:
        assert f"test_{page.removesuffix('.md').replace('-', '_')}" in here
