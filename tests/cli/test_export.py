from __future__ import annotations

from pathlib import Path

import pytest
import torch

from polyrank.adapter import Adapter
from polyrank.federation import checkpoint
from polyrank.hf import peft_folder
from polyrank.hf.base import BaseModel
from polyrank.hf.merged import load_merged
from tests.cli.conftest import Polyrank
from tests.cli.test_inspect import run  # noqa: F401  # the fixture


def logits(base: BaseModel, model: torch.nn.Module) -> torch.Tensor:
    batch = base.tokenizer(["the cat sees", "my new moon and a fig"], padding=True, return_tensors="pt")
    with torch.no_grad():
        return model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def adapted(folder: Path) -> tuple[BaseModel, torch.nn.Module]:
    from peft import PeftModel

    base = peft_folder.base_model(folder)
    return base, PeftModel.from_pretrained(base.model, folder)


def state_adapter(folder: Path) -> Adapter:
    return checkpoint.load(folder / "checkpoint").adapter


def test_a_lower_rank_is_the_best_approximation(polyrank: Polyrank, run: Path):  # noqa: F811
    result = polyrank("export", run, "-o", "small", "--rank", "2")
    assert result.code == 0
    assert "rank 2" in result.out
    small = peft_folder.read(Path("small"))
    for name, whole in state_adapter(run).modules.items():
        dropped = float(torch.linalg.svdvals(whole.delta().double())[2:].norm())
        assert small.modules[name].rank == 2
        assert float((small.modules[name].delta() - whole.delta()).norm()) == pytest.approx(dropped, rel=1e-4, abs=1e-7)


def test_a_higher_rank_is_the_same_update(polyrank: Polyrank, run: Path):  # noqa: F811
    assert polyrank("export", run, "-o", "large", "--rank", "9").code == 0
    large = peft_folder.read(Path("large"))
    for name, whole in state_adapter(run).modules.items():
        assert large.modules[name].rank == 9
        torch.testing.assert_close(large.modules[name].delta(), whole.delta(), atol=1e-7, rtol=1e-5)


def test_the_merged_model_computes_what_the_adapter_does(polyrank: Polyrank, run: Path):  # noqa: F811
    assert polyrank("export", run, "-o", "adapter").code == 0
    base, model = adapted(Path("adapter"))
    expected = logits(base, model)
    assert polyrank("export", run, "-o", "whole", "--merged").code == 0
    if (Path("whole") / "mean_pool_head.safetensors").exists():
        whole = load_merged("whole")
        found = logits(whole, whole.model)
    else:
        from transformers import AutoModelForSequenceClassification

        found = logits(base, AutoModelForSequenceClassification.from_pretrained("whole"))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_nothing_is_written_over_and_a_wrong_folder_is_one_line(polyrank: Polyrank, run: Path):  # noqa: F811
    Path("taken").mkdir()
    Path("taken/file").touch()
    taken = polyrank("export", run, "-o", "taken")
    assert (taken.code, len(taken.err.strip().splitlines())) == (2, 1)
    wrong = polyrank("export", "taken", "-o", "new")
    assert (wrong.code, len(wrong.err.strip().splitlines())) == (2, 1)
    assert not Path("new").exists()
