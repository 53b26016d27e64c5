from __future__ import annotations

import importlib.util
import re
import sys
import textwrap
import types
from pathlib import Path
from typing import Any, get_args

import pytest

from tests import models

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


@pytest.mark.parametrize("picture", generator().PICTURES)
def test_pictures_are_up_to_date(picture: str):
    """`python docs/generate.py` draws them anew."""
    assert generator().PICTURES[picture]() == (ROOT / picture).read_text(encoding="utf-8")


PAGES = [path for folder in (".", "docs", "paper") for path in sorted((ROOT / folder).glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_inside_the_repository_lead_somewhere(page: Path):
    """To files that are there, and to headings that are in them, as the repository shows them."""
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        there = page.parent / target if target else page
        assert there.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(there), f"{page.name} links to {target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """What can be linked to in a page: its headings in small letters, words joined by hyphens, without punctuation."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


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


def test_the_robust_rule_in_contributing_works(monkeypatch: pytest.MonkeyPatch):
    """Rows 1, 2, 4, 9 and 900, one of which may be hostile: halfway between 2 and 9 are 5.5."""
    import torch

    from polyrank import Adapter, ClientUpdate, Factors, ServerState, load_config
    from polyrank.aggregation import configured, registry
    from polyrank.core.registry import Registry
    from tests.conformance.fixtures import conclude

    cls = from_contributing(4)["MidRange"]
    own = Registry("robust rule", {**registry.RULES, cls.name: cls})
    monkeypatch.setattr(registry, "RULES", own)
    chosen = configured(load_config(None, ["aggregation.robust=mid_range"]).aggregation)

    def line(value: float) -> Adapter:
        return Adapter({"layer": Factors(torch.tensor([[value]]), torch.ones(1, 1))})

    updates = [ClientUpdate(str(value), line(value), 1.0) for value in (4.0, 900.0, 1.0, 9.0, 2.0)]
    found = conclude(chosen, ServerState(0, line(0.0), {}, {}), updates).adapter
    assert found.modules["layer"].a.item() == 5.5


def numbered(folder: Path, rows: int = 48) -> Path:
    """Texts of the toy task without labels, and of each how many words it has."""
    texts = models.toy(rows).texts
    file = folder / "numbers.csv"
    file.write_text(
        "\n".join(["text,words", *(f"{text},{len(text.split()) / 10}" for text in texts)]), encoding="utf-8"
    )
    return file


@pytest.fixture
def regression(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkpoint: models.Checkpoints) -> list[str]:
    """The task in CONTRIBUTING among the others, and a small federation that learns it of data without labels."""
    from polyrank.core.registry import Registry
    from polyrank.tasks import TASKS, registry

    monkeypatch.setattr(
        registry, "TASKS", Registry("task", {**TASKS, "regression": from_contributing(3)["Regression"]})
    )
    return [
        *("task.name=regression", "task.options={column = 'words'}", f"data.train={numbered(tmp_path)}"),
        *(f"model.name={checkpoint('bert')}", "model.head=mean-pool", "data.partition=iid", "federation.clients=3"),
        *("federation.participation=1.0", "federation.rounds=2", "ranks.policy=fixed", "ranks.levels=[2,4]"),
        *("training.precision=float32", "training.attention=eager", "training.workers=1", "training.lr=0.02"),
        *("training.engine=batched", "training.clients_per_pass=2", "training.epochs=4", "training.batch_size=8"),
    ]


def test_the_task_in_contributing_works(regression: list[str], tmp_path: Path):
    """Trained, measured, resumed and reported as any other, by both engines alike; nobody has labels."""
    import json

    from polyrank import load_config, run
    from polyrank.report import answer
    from polyrank.report.runs import find, grouped
    from polyrank.report.statistics import compare

    summary = run(load_config(None, [*regression, "federation.rounds=1"]), tmp_path / "run")
    longer = run(load_config(None, regression), tmp_path / "run", resume=True)
    one = run(load_config(None, [*regression, "training.engine=sequential"]), tmp_path / "one")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [key for key in lines[1] if key.startswith("test/")] == ["test/error", "test/loss"]
    assert longer["test/error"] == pytest.approx(one["test/error"], rel=1e-4)
    assert longer["test/error"] < 0.9 * longer["constant/error"]
    assert longer["best/error"] == min(line["test/error"] for line in lines)
    assert summary["best/round"] == 1
    assert [list(group) for group in longer["rank_groups"]] == [["rank", "clients", "error", "loss"]] * 2
    about, clients = (json.loads((tmp_path / "run" / f"{name}.json").read_text()) for name in ("run", "clients"))
    assert (about["task"], about["labels"], about["outputs"]) == ("regression", [], ["words"])
    assert all("labels" not in client for client in clients["clients"].values())
    groups = grouped(find([tmp_path / "run"]))
    assert answer.sentence(groups, compare(groups)).startswith("replication reaches a test mean error of 0.")


@pytest.mark.parametrize(
    ("override", "error"),
    [
        (
            "data.partition=dirichlet",
            r"partition dirichlet needs a label for every text, and .*numbers\.csv is read without",
        ),
        ("data.partition=by-label", "partition by-label needs a label for every text"),
        ("data.partition=quality-groups", "partition quality-groups needs a label for every text"),
        ("data.label=topic", "has no column 'topic'"),
        ("task.name=classification", "task classification has no option 'column'"),
        ("task.options={column='text'}", r"numbers\.csv, column 'text': could not convert .*; expected numbers"),
        ("task.options={column='stars'}", "has no column 'stars'"),
        ("ranks.by_name={red=4}", "red"),
    ],
)
def test_what_a_task_without_labels_cannot_do_is_one_line(
    regression: list[str], tmp_path: Path, override: str, error: str
):
    from polyrank import PolyRankError, load_config, run

    with pytest.raises(PolyRankError, match=error) as raised:
        run(load_config(None, [*regression, override]), tmp_path / "run")
    assert "\n" not in str(raised.value)


def test_clients_are_scored_by_the_loss_of_texts_without_labels(regression: list[str], tmp_path: Path):
    """The server keeps six texts in all, and the best client gets the highest rank."""
    import json

    from polyrank import load_config, run

    own = ["ranks.policy=validation", "ranks.validation_per_label=6", "ranks.counts=[2,1]"]
    run(load_config(None, [*regression, *own]), tmp_path / "run")
    clients = json.loads((tmp_path / "run" / "clients.json").read_text())["clients"].values()
    assert sum(client["examples"] for client in clients) == 48 - 10 - 6  # a fifth is the test set
    best = min(clients, key=lambda client: client["validation_loss"])
    assert [client["rank"] for client in clients if client is best] == [4]


def test_labels_are_kinds_of_a_task_that_learns_none(regression: list[str], tmp_path: Path):
    """Beside the numbers each text has a topic: clients of one topic each, counted in the run folder."""
    import json

    from polyrank import load_config, run

    texts = (tmp_path / "numbers.csv").read_text().splitlines()
    rows = [f"{texts[0]},topic", *(f"{row},{'ab'[i % 2]}" for i, row in enumerate(texts[1:]))]
    (tmp_path / "numbers.csv").write_text("\n".join(rows))
    own = ["data.label=topic", "data.partition=by-label", "federation.clients=2"]
    run(load_config(None, [*regression, *own]), tmp_path / "run")
    about, clients = (json.loads((tmp_path / "run" / f"{name}.json").read_text()) for name in ("run", "clients"))
    assert (about["labels"], about["outputs"]) == (["a", "b"], ["words"])
    assert sorted(sorted(client["labels"])[0] for client in clients["clients"].values()) == [0, 0]


def test_what_is_not_finite_is_null_everywhere_and_said(regression: list[str], tmp_path: Path):
    """Numbers whose squares overflow: the loss of every round is lost, and each file is still JSON."""
    import json

    from polyrank import load_config, run
    from polyrank.report import answer
    from polyrank.report.runs import find, grouped
    from polyrank.report.statistics import compare

    first, *rows = (tmp_path / "numbers.csv").read_text().splitlines()
    huge = [f"{row.rpartition(',')[0]},{'1e25' if i % 3 else '1'}" for i, row in enumerate(rows)]
    (tmp_path / "numbers.csv").write_text("\n".join([first, *huge]))
    summary = run(load_config(None, regression), tmp_path / "run")
    assert summary["test/loss"] is None
    assert [group["loss"] for group in summary["rank_groups"]] == [None, None]
    for file in (tmp_path / "run").glob("*.json*"):
        text = file.read_text()
        for part in text.splitlines() if file.suffix == ".jsonl" else [text]:
            json.loads(part, parse_constant=lambda name, file=file: pytest.fail(f"{file.name} has {name}"))
    groups = grouped(find([tmp_path / "run"]))
    assert "reaches a test mean error of" in answer.sentence(groups, compare(groups))
