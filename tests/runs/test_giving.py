from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from polyrank import config as configuration
from polyrank.core.state import ServerState
from polyrank.data.turns import Turn
from polyrank.federation.round import global_model
from polyrank.hf.load import load_base, load_tokenizer
from polyrank.hf.resident import ResidentModel
from polyrank.runs import checkpoint, runner
from polyrank.runs.folder import RunFolder
from polyrank.tasks.causal_lm.prompts import prompts_for
from tests import writers

VLLM = (1, 8, 16, 32, 64, 128, 256, 320, 512)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return writers.study(tmp_path_factory.mktemp("giving"))


@pytest.fixture(scope="module")
def ran(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ranks and scales that differ from client to client, alpha / sqrt(r), over all linear layers."""
    folder = tmp_path_factory.mktemp("ran") / "run"
    overrides = ["ranks.levels=[3,5]", "ranks.scaling=rslora", "training.lr=2e-2", "model.dropout=0.1"]
    runner.run(configuration.load(study / "study.toml", overrides), folder)
    return folder


def settings(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    return found


def pairs_of(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Module -> A and B, of the file; nothing else may be in it."""
    tensors = load_file(folder / "adapter_model.safetensors")
    start, ends = "base_model.model.", (".lora_A.weight", ".lora_B.weight")
    names = {name.removeprefix(start).removesuffix(end) for name in tensors for end in ends if name.endswith(end)}
    assert tensors.keys() == {f"{start}{name}{end}" for name in names for end in ends}
    return {name: (tensors[f"{start}{name}{ends[0]}"], tensors[f"{start}{name}{ends[1]}"]) for name in names}


def by_vllm(folder: Path) -> dict[str, Tensor]:
    """vllm/lora/peft_helper.py: r, lora_alpha and use_rslora count, patterns do not; some settings are refused."""
    said = settings(folder)
    assert said["r"] in VLLM
    assert not said.get("modules_to_save")
    assert not said.get("use_dora")
    assert said["bias"] == "none"
    scale = said["lora_alpha"] / (said["r"] ** 0.5 if said["use_rslora"] else said["r"])
    deltas = {}
    for name, (a, b) in pairs_of(folder).items():
        assert name.rpartition(".")[2] in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
        assert a.shape[0] == b.shape[1] == said["r"]
        deltas[name] = scale * (b.double() @ a.double())
    return deltas


def by_llama_cpp(folder: Path) -> dict[str, Tensor]:
    """convert_lora_to_gguf.py writes lora_alpha as a float32; llama-adapter.h divides it by the tensor's own rank."""
    (alpha,) = struct.unpack("f", struct.pack("f", settings(folder)["lora_alpha"]))
    return {name: alpha / b.shape[1] * (b.double() @ a.double()) for name, (a, b) in pairs_of(folder).items()}


@torch.no_grad()
def logits(model: torch.nn.Module) -> Tensor:
    ids = torch.arange(24).view(2, 12) * 7 % writers.WORDS
    found: Tensor = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return found


def of_the_run(folder: Path) -> tuple[ServerState, Tensor]:
    run, state = RunFolder(folder), checkpoint.load(folder / "checkpoint")
    resident = ResidentModel(load_base(run.target().model, ()))
    resident.install(global_model(state))
    return state, logits(resident.model)


def test_servers_compute_the_run_s_deltas_from_the_adapter_s_files(ran: Path):
    state = checkpoint.load(ran / "checkpoint")
    truth = {n: f.scale * (f.b.double() @ f.a.double()) for n, f in global_model(state).modules.items()}
    assert state.adapter.rank == 5
    said = settings(ran / "adapter")
    assert (said["task_type"], said["r"], said["modules_to_save"]) == ("CAUSAL_LM", 8, None)
    assert (said["rank_pattern"], said["alpha_pattern"], type(said["lora_alpha"])) == ({}, {}, int)
    for rule in (by_vllm, by_llama_cpp):
        found = rule(ran / "adapter")
        assert found.keys() == truth.keys()
        for name, delta in found.items():
            assert truth[name].abs().max() > 1e-3
            assert float((delta - truth[name]).norm() / truth[name].norm()) < 1e-6


def test_plain_peft_gives_the_run_s_logits(ran: Path, study: Path):
    base = AutoModelForCausalLM.from_pretrained(study / "llama")
    untouched = logits(base)
    _, truth = of_the_run(ran)
    found = logits(PeftModel.from_pretrained(base, ran / "adapter"))
    assert (truth - untouched).abs().max() > 1e-2
    torch.testing.assert_close(found, truth, atol=1e-5, rtol=1e-5)


def test_tokenizer_template_and_stop_tokens_lie_beside(ran: Path, study: Path):
    tokenizer, before = (AutoTokenizer.from_pretrained(folder) for folder in (ran / "adapter", study / "llama"))
    assert tokenizer.get_vocab() == before.get_vocab()
    assert tokenizer.chat_template == writers.CHAT
    ends = {tokenizer.convert_tokens_to_ids(token) for token in ("</s>", "<|im_end|>")}
    assert set(GenerationConfig.from_pretrained(ran / "adapter").eos_token_id) == ends
    assert json.loads((ran / "adapter" / "polyrank.json").read_text())["labels"] == []


@pytest.mark.parametrize("template", ["none", "{prompt}", '### Q: {prompt}\n\n### "A": ', "<s>é {prompt}😀'{prompt}"])
@pytest.mark.parametrize("begins", [True, False])
def test_a_plain_template_is_given_as_a_chat_template(study: Path, template: str, begins: bool, tmp_path: Path):
    """Whatever server renders it, a prompt has the tokens that it had in training."""
    writers.tokenizer(chat=True, begins=begins).save_pretrained(tmp_path)
    configuration_of = json.loads((study / "llama" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(configuration_of))
    tokenizer = load_tokenizer(configuration.ModelConfig(name=str(tmp_path)))
    prompts = prompts_for(tokenizer, template)
    tokenizer.chat_template = prompts.chat_template
    for turns in ([Turn("user", "What's <b>?")], [Turn("system", "Be\nbrief."), Turn("user", " Why? ")]):
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        rendered = tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)
        assert list(rendered["input_ids"]) == prompts.opening(turns)


def test_a_rank_that_servers_do_not_take_does_not_stop_a_run(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("polyrank.hf.peft.portable.RANKS", (1, 2))
    runner.run(configuration.load(study / "study.toml", ["federation.rounds=1"]), tmp_path / "run")
    assert "for PEFT alone" in caplog.text
    _, truth = of_the_run(tmp_path / "run")
    base = AutoModelForCausalLM.from_pretrained(study / "llama")
    torch.testing.assert_close(
        logits(PeftModel.from_pretrained(base, tmp_path / "run" / "adapter")), truth, atol=1e-5, rtol=1e-5
    )
