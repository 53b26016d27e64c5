from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from polyrank import config
from polyrank.aggregation import build
from polyrank.core.adapter import Adapter
from polyrank.core.errors import AdapterError
from polyrank.federation.round import personalise, read_out
from polyrank.hf.load import BaseModel
from polyrank.hf.merged import load_merged
from polyrank.hf.peft import folder as peft_folder
from polyrank.hf.resident import ResidentModel
from polyrank.runs import checkpoint, runner
from polyrank.runs.folder import RunFolder
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


def merged(folder: Path) -> torch.nn.Module:
    """A model that was exported whole."""
    if (folder / "mean_pool_head.safetensors").exists():
        return load_merged(folder).model
    from transformers import AutoModelForSequenceClassification

    model: torch.nn.Module = AutoModelForSequenceClassification.from_pretrained(folder)
    return model


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
    torch.testing.assert_close(logits(base, merged(Path("whole"))), expected, atol=1e-5, rtol=1e-4)


def test_nothing_is_written_over_and_a_wrong_folder_is_one_line(polyrank: Polyrank, run: Path):  # noqa: F811
    Path("taken").mkdir()
    Path("taken/file").touch()
    taken = polyrank("export", run, "-o", "taken")
    assert (taken.code, len(taken.err.strip().splitlines())) == (2, 1)
    wrong = polyrank("export", "taken", "-o", "new")
    assert (wrong.code, len(wrong.err.strip().splitlines())) == (2, 1)
    assert not Path("new").exists()


PERSONAL = {
    "fedsa": ("aggregation.method=fedsa",),
    "local head": ("federation.head=local",),
    "local head and a base change": ("federation.head=local", "aggregation.method=fedex"),
    "local head and a base change that stays with the server": ("federation.head=local", "aggregation.method=fedhl"),
}


@pytest.fixture(scope="module", params=PERSONAL.values(), ids=PERSONAL)
def personal(request: pytest.FixtureRequest, own_things: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which something stays with the clients: two of four in each of two rounds, ranks 4, 2, 2 and 2."""
    folder = tmp_path_factory.mktemp("personal") / "run"
    study = config.load(own_things / "study.toml", [*request.param, "training.lr=5e-2", "federation.seed=2"])
    runner.run(study, folder)
    return folder


def test_a_client_is_exported_with_what_stayed_with_it(polyrank: Polyrank, personal: Path):
    """As logits of the adapter, of the merged model, and of what the run evaluates for the client; clients differ."""
    state, study = checkpoint.load(personal / "checkpoint"), RunFolder(personal).read_config()
    method = build(study.aggregation.method, study.aggregation.options)
    found = {}
    for client in sorted(state.personal)[:2]:
        result = polyrank("export", personal, "-o", client, "--client", client)
        assert result.code == 0, result.err
        assert f"of {client}" in result.out
        base, model = adapted(Path(client))
        found[client] = logits(base, model)
        resident = ResidentModel(peft_folder.base_model(Path(client)))
        own = personalise(state, client, read_out(state, client, method))
        resident.install(own.adapter, own.base_change)
        torch.testing.assert_close(found[client], logits(resident.base, resident.model), atol=1e-5, rtol=1e-4)
        assert polyrank("export", personal, "-o", f"{client}-whole", "--merged", "--client", client).code == 0
        torch.testing.assert_close(logits(base, merged(Path(f"{client}-whole"))), found[client], atol=1e-5, rtol=1e-4)
    one, other = found.values()
    assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize("options", [(), ("--merged",), ("--rank", "2")])
def test_no_model_of_nobody_is_exported(polyrank: Polyrank, personal: Path, options: tuple[str, ...]):
    """It had a B of zeros, or a head that nobody had trained."""
    result = polyrank("export", personal, "-o", "new", *options)
    assert (result.code, len(result.err.strip().splitlines())) == (2, 1)
    assert f"--client {min(checkpoint.load(personal / 'checkpoint').personal)}" in result.err
    assert "each client keeps its own" in result.err
    assert not Path("new").exists()


def test_a_client_that_there_is_not(polyrank: Polyrank, personal: Path, run: Path):  # noqa: F811
    """Nobody of that name; one that was drawn in no round; one of a run in which all have one model."""
    state = checkpoint.load(personal / "checkpoint")
    idle = sorted(state.ranks.keys() - state.personal.keys())
    assert idle, "take another seed: everybody took part"
    for folder, client, message in (
        (personal, "client-9", "no client has this name; did you mean 'client-0"),
        (personal, idle[0], "took part in none of the 2 rounds"),
        (run, "client-00", "nothing stays with the clients of this run"),
    ):
        result = polyrank("export", folder, "-o", "new", "--client", client)
        assert (result.code, len(result.err.strip().splitlines())) == (2, 1)
        assert message in result.err
        assert not Path("new").exists()


def test_what_clients_share_does_not_pass_for_an_adapter(polyrank: Polyrank, personal: Path):
    """For PEFT, `base_model`, inspect and merge; inspecting the run says it too."""
    shared = personal / "adapter"
    assert sorted(path.name for path in shared.iterdir()) == ["adapter_model.safetensors", "polyrank.json"]
    with pytest.raises(AdapterError, match="holds what the clients of a run share"):
        peft_folder.base_model(shared)
    for command in (("inspect", shared), ("merge", shared, shared, "-o", "new")):
        result = polyrank(*command)
        assert (result.code, len(result.err.strip().splitlines())) == (2, 1)
        assert "polyrank export RUN --client NAME" in result.err
    found = polyrank("inspect", personal)
    assert "each client keeps its own" in found.out
    stay = json.loads(polyrank("inspect", personal, "--json").out)["run"]["stay_with_clients"]
    assert stay == (["B", "head"] if RunFolder(personal).read_config().aggregation.method == "fedsa" else ["head"])


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
    torch.testing.assert_close(logits(base, merged(Path("whole"))), found, atol=1e-5, rtol=1e-4)


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


@pytest.mark.parametrize("form", ["nf4", "int8"])
def test_what_was_trained_over_a_quantised_base_goes_into_the_base_as_it_is(
    polyrank: Polyrank, own_things: Path, form: str
):
    """The merged weights are the checkpoint's plus the delta, in one dtype; a line says so, for the adapter as well."""
    pytest.importorskip("bitsandbytes")
    study = own_things / "study.toml"
    assert polyrank("run", study, "--set", f"model.quantization={form}", "--out", "run").code == 0
    result = polyrank("export", "run", "-o", "whole", "--merged")
    assert result.code == 0
    assert f"trained over the base in {form}; it is merged into the base as it is" in result.out
    assert "the base as it is, or quantised" in polyrank("export", "run", "-o", "adapter").out
    base, model = adapted(Path("adapter"))
    whole = merged(Path("whole"))
    torch.testing.assert_close(logits(base, whole), logits(base, model), atol=1e-5, rtol=1e-4)
    assert {value.dtype for value in whole.state_dict().values() if value.is_floating_point()} == {torch.float32}
    assert "quantization_config" not in json.loads(Path("whole/config.json").read_text())
