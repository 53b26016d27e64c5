from __future__ import annotations

from pathlib import Path

import pytest
import torch

from polyrank import config
from polyrank.adapter import Adapter
from polyrank.federation import checkpoint, runner
from polyrank.hf import peft_folder
from polyrank.hf.base import BaseModel
from polyrank.hf.merged import load_merged
from polyrank.hf.resident import ResidentModel
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


@pytest.fixture(scope="module")
def changed(own_things: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose state has a base change: most of what was learned is in it."""
    folder = tmp_path_factory.mktemp("changed") / "run"
    runner.run(config.load(own_things / "study.toml", ["aggregation.method=fedex", "training.lr=5e-2"]), folder)
    return folder


def test_the_base_change_is_in_the_adapter_and_in_the_merged_model(polyrank: Polyrank, changed: Path):
    """As logits: exported adapter, merged model, and the model as the run has it, base change installed."""
    state = checkpoint.load(changed / "checkpoint")
    assert state.base_change is not None
    assert polyrank("export", changed, "-o", "adapter").code == 0
    base, model = adapted(Path("adapter"))
    found = logits(base, model)
    resident = ResidentModel(peft_folder.base_model(Path("adapter")))
    resident.install(state.adapter, state.base_change)
    torch.testing.assert_close(found, logits(resident.base, resident.model), atol=1e-5, rtol=1e-4)
    resident.install(state.adapter)
    assert (found - logits(resident.base, resident.model)).abs().max() > 1e-3
    assert polyrank("export", changed, "-o", "whole", "--merged").code == 0
    if (Path("whole") / "mean_pool_head.safetensors").exists():
        whole = load_merged("whole").model
    else:
        from transformers import AutoModelForSequenceClassification

        whole = AutoModelForSequenceClassification.from_pretrained("whole")
    torch.testing.assert_close(logits(base, whole), found, atol=1e-5, rtol=1e-4)


def test_a_lower_rank_is_the_best_approximation_of_adapter_and_base_change_together(polyrank: Polyrank, changed: Path):
    """What is lost are the singular values of the whole from the third on."""
    assert polyrank("export", changed, "-o", "small", "--rank", "2").code == 0
    small = peft_folder.read(Path("small"))
    state = checkpoint.load(changed / "checkpoint")
    assert state.base_change is not None
    for name, factors in state.adapter.modules.items():
        whole = (factors.delta() + state.base_change.modules[name].delta()).double()
        dropped = float(torch.linalg.svdvals(whole)[2:].norm())
        assert small.modules[name].rank == 2
        assert float((small.modules[name].delta() - whole).norm()) == pytest.approx(dropped, rel=1e-3, abs=1e-6)
