"""Which layers of models that write get LoRA; those of classifiers are in `test_resident`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from polyrank.config import TrainingConfig
from polyrank.core.adapter import Adapter
from polyrank.core.errors import ModelError
from polyrank.hf.files import quiet
from polyrank.hf.resident import ResidentModel
from polyrank.training.sequential import Sequential
from polyrank.training.tuning.planner import choose
from polyrank.training.work import Work
from tests import writers
from tests.models import random_adapter, updates
from tests.training.batched.test_engine import distance

TASK = writers.TASK
EXPERTS = {
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "decoder_sparse_step": 1},
    "qwen2_moe": {"num_experts": 4, "num_experts_per_tok": 2, "shared_expert_intermediate_size": 8},
    "deepseek_v3": {
        **{"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 8},
        **{"kv_lora_rank": 4, "q_lora_rank": 4, "qk_rope_head_dim": 4, "v_head_dim": 8, "qk_nope_head_dim": 4},
        **{"first_k_dense_replace": 1, "num_key_value_heads": 2},
    },
}
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
LINEAR = {
    "mixtral": ATTENTION,
    "qwen3_moe": ATTENTION,
    "qwen2_moe": {*ATTENTION, "gate_proj", "up_proj", "down_proj", "shared_expert_gate"},
    "deepseek_v3": {
        *("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    },
}
"""Linear layers: attention, and feed-forward parts that all tokens share."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A model that writes, of any architecture, made once."""
    root = tmp_path_factory.mktemp("targets")

    def made(architecture: str, **config: object) -> Path:
        path = root / f"{architecture}-{config.get('tie_word_embeddings')}"
        if not path.exists():
            settings = {
                **writers.SMALL,
                **config,
                "vocab_size": writers.WORDS,
                "bos_token_id": 0,
                "eos_token_id": 1,
            }
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(
                AutoConfig.for_model(architecture, initializer_range=0.2, **settings)
            )
            with quiet():
                model.save_pretrained(path)
            writers.tokenizer().save_pretrained(path)
        return path

    return made


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "targets",
    ["lm_head", ["lm_head"], ["q_proj", "lm_head"], ".*(q_proj|head)", "embed_tokens", ["embed_tokens"], r".*tokens"],
)
def test_words_are_no_target(folder: Callable[..., Path], targets: str | list[str], tied: bool):
    """Before anything is trained, in one line, whichever way they are named."""
    where = folder("llama", tie_word_embeddings=tied)
    with pytest.raises(ModelError) as said:
        writers.resident(where, targets=targets)
    message = str(said.value)
    assert "\n" not in message
    assert ("lm_head is the output layer" if "head" in str(targets) else "embed_tokens is the embeddings") in message
    assert "Leave it out of model.targets" in message


def test_all_linear_layers_are_without_the_output_layer(folder: Callable[..., Path]):
    model = writers.resident(folder("llama", tie_word_embeddings=False), targets="all-linear")
    assert len(model.shapes) == 2 * 7
    assert not any("lm_head" in name for name in model.shapes)


@pytest.mark.parametrize("architecture", EXPERTS)
def test_experts_in_one_tensor_and_their_routers_stay(folder: Callable[..., Path], architecture: str):
    """All linear layers get LoRA, also shared ones that have an expert's names; a base change goes to the same ones."""
    model = writers.resident(folder(architecture, **EXPERTS[architecture]), targets="all-linear")
    assert {name.rpartition(".")[2] for name in model.shapes} == LINEAR[architecture]
    change = Adapter(random_adapter(model, 3).modules)
    model.install(random_adapter(model), change)
    assert not [name for name, own in model.model.named_parameters() if ".experts" in name and "lora" in name]


@pytest.mark.parametrize("architecture", ["mixtral", "qwen3_moe"])
def test_mixtures_of_experts_are_trained_one_client_after_another(folder: Callable[..., Path], architecture: str):
    """With the reason; the parts of a step do not matter there, nor whether layers are recomputed."""
    model = writers.resident(
        folder(architecture, **EXPERTS[architecture]),
        **{"targets": "all-linear", "attention": "sdpa"},  # torch has no grouped products in float64
    )
    held = {"a": writers.examples(model, 6)}
    work = Work("a", 1, random_adapter(model, 1, rank=2, uneven=False), seed=1)
    options = TrainingConfig(batch_size=6, lr=0.1, optimizer="sgd", workers=1)
    settled = options.model_copy(update={"precision": "float32", "attention": "sdpa"})
    plan = choose(lambda *_: model, TASK, held, settled, lambda _: [work], rounds=1).plan
    assert plan.engine == "sequential"
    assert "experts may share a capacity between the examples of a batch" in plan.reason
    (whole,) = updates(Sequential(model, TASK, held, options), [work])
    for changed in ({"accumulate": 6}, {"gradient_checkpointing": True}):
        (found,) = updates(Sequential(model, TASK, held, options.model_copy(update=changed)), [work])
        assert distance(found.adapter, whole.adapter, work.adapter) < 1e-4


def test_a_model_of_one_family_is_as_it_was(folder: Callable[..., Path]):
    """PEFT's own choice for an architecture it knows."""
    model: ResidentModel = writers.resident(folder("mixtral", **EXPERTS["mixtral"]), targets="default")
    assert {name.rpartition(".")[2] for name in model.shapes} == {"q_proj", "v_proj"}
