"""``polyrank export`` and ``merge`` of models that write: what transformers, PEFT and servers load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from polyrank import config as configuration
from polyrank import merge
from polyrank.runs import runner
from tests import writers
from tests.cli.conftest import Polyrank


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of tied embeddings, with linear layers or GPT-2's; its base is the folder beside it."""
    folder = writers.study(tmp_path_factory.mktemp("export"))
    if request.param != "llama":
        writers.save(folder / "llama", request.param)
    (folder / "llama" / "generation_config.json").write_text(json.dumps({"eos_token_id": 1, "temperature": 0.6}))
    runner.run(configuration.load(folder / "study.toml", ["training.lr=2e-2"]), folder / "run")
    return folder / "run"


def base(ran: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(ran.parent / "llama")


@torch.no_grad()
def logits(model: Any) -> Tensor:
    ids = torch.arange(24).view(2, 12) * 7 % writers.WORDS
    found: Tensor = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return found


def said(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(folder) / "adapter_config.json").read_text())
    return found


def test_an_adapter_is_portable_and_the_command_says_how_it_is_served(polyrank: Polyrank, ran: Path):
    result = polyrank("export", ran, "-o", "adapter")
    assert (result.code, result.err) == (0, "")
    assert "adapter of rank 4, filled up to 8 after round 2: adapter (" in result.out
    assert "--enable-lora --max-lora-rank 8 --lora-modules adapter=adapter" in result.out
    assert (said("adapter")["r"], said("adapter")["task_type"], said("adapter")["rank_pattern"]) == (8, "CAUSAL_LM", {})
    names = {path.name for path in Path("adapter").iterdir()}
    assert {"tokenizer.json", "generation_config.json", "adapter_model.safetensors"} <= names
    found = logits(PeftModel.from_pretrained(base(ran), "adapter"))
    torch.testing.assert_close(found, logits(PeftModel.from_pretrained(base(ran), ran / "adapter")), atol=1e-6, rtol=0)


def test_ranks_as_they_are_are_an_option_and_so_is_a_lower_one(polyrank: Polyrank, ran: Path):
    exact = polyrank("export", ran, "-o", "exact", "--exact-ranks")
    assert exact.code == 0
    assert "max-lora-rank" not in exact.out
    assert said("exact")["r"] == 4
    low = polyrank("export", ran, "-o", "low", "--rank", "1")
    assert "adapter of rank 1 after round 2" in low.out
    assert "--max-lora-rank 1 " in low.out
    found = logits(PeftModel.from_pretrained(base(ran), "exact"))
    torch.testing.assert_close(found, logits(PeftModel.from_pretrained(base(ran), ran / "adapter")), atol=1e-5, rtol=0)


def test_a_merged_model_writes_what_the_run_would(polyrank: Polyrank, ran: Path):
    """Tied embeddings stay tied, keys and values serve generation again, and it ends where answers end."""
    assert polyrank("export", ran, "-o", "whole", "--merged").code == 0
    whole = AutoModelForCausalLM.from_pretrained("whole")
    truth = logits(PeftModel.from_pretrained(base(ran), ran / "adapter"))
    torch.testing.assert_close(logits(whole), truth, atol=1e-4, rtol=1e-4)
    assert whole.get_input_embeddings().weight is whole.get_output_embeddings().weight
    assert "lm_head.weight" not in load_file(Path("whole") / "model.safetensors")
    assert whole.config.use_cache
    assert whole.config.architectures == base(ran).config.architectures
    tokenizer = AutoTokenizer.from_pretrained("whole")
    assert tokenizer.chat_template == writers.CHAT
    assert set(whole.generation_config.eos_token_id) == {
        tokenizer.convert_tokens_to_ids(token) for token in ("</s>", "<|im_end|>")
    }
    assert whole.generation_config.temperature == 0.6
    assert polyrank("export", ran, "-o", "half", "--merged", "--dtype", "bfloat16").code == 0
    assert {tensor.dtype for tensor in load_file(Path("half") / "model.safetensors").values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--dtype", "bfloat16"), "--dtype is of --merged"),
        (("--merged", "--dtype", "int3"), "--dtype is 'int3'; expected one of"),
        (("--merged", "--portable"), "are of adapters"),
    ],
)
def test_options_that_say_nothing_are_refused(polyrank: Polyrank, ran: Path, options: tuple[str, ...], words: str):
    result = polyrank("export", ran, "-o", "new", *options)
    assert (result.code, len(result.err.strip().splitlines()), Path("new").exists()) == (2, 1, False)
    assert words in result.err


def test_a_rank_that_no_server_takes_is_refused_with_the_ways_out(
    polyrank: Polyrank, ran: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("polyrank.hf.peft.portable.RANKS", (1, 2))
    refused = polyrank("export", ran, "-o", "new")
    assert (refused.code, len(refused.err.strip().splitlines()), Path("new").exists()) == (2, 1, False)
    for word in ("rank 4", "2 at most", "--rank 2", "--merged", "--exact-ranks"):
        assert word in refused.err
    assert polyrank("export", ran, "-o", "new", "--rank", "2").code == 0
    assert polyrank("export", ran, "-o", "exact", "--exact-ranks").code == 0


def test_adapters_that_are_merged_are_portable_too(polyrank: Polyrank, ran: Path):
    for rank in (1, 3):
        assert polyrank("export", ran, "-o", f"rank-{rank}", "--rank", str(rank), "--exact-ranks").code == 0
    result = polyrank("merge", "rank-1", "rank-3", "-o", "both")
    assert "filled up to one rank for servers: --max-lora-rank 8" in result.out
    assert (said("both")["r"], said("both")["rank_pattern"], said("both")["alpha_pattern"]) == (8, {}, {})
    assert "filled up" not in polyrank("merge", "rank-1", "rank-3", "-o", "exact", "--exact-ranks").out
    assert said("exact")["r"] == 3
    found, truth = (logits(PeftModel.from_pretrained(base(ran), folder)) for folder in ("both", "exact"))
    torch.testing.assert_close(found, truth, atol=1e-5, rtol=1e-4)
    merged = merge(["rank-1", "rank-3"])
    assert merged.given().rank == 8
    assert merged.given(portable=False) is merged.adapter
