"""What a model answers: a batch of unequal prompts as one by one, within the model's positions, cut or not."""

from __future__ import annotations

from pathlib import Path

import pytest

from polyrank.config import ModelConfig
from polyrank.core.errors import DataError
from polyrank.core.seeds import seeded
from polyrank.hf.generate import Sampling
from polyrank.hf.load import load_base
from polyrank.hf.resident import ResidentModel
from polyrank.runs.answers import answers
from polyrank.tasks.causal_lm import CausalLM
from tests import models, writers

TASK = CausalLM("none")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ResidentModel:
    folder = writers.save(tmp_path_factory.mktemp("llama") / "llama", chat=False)
    made = ResidentModel(load_base(ModelConfig(name=str(folder)), ()))
    made.install(models.random_adapter(made))
    return made


def openings(resident: ResidentModel) -> list[list[int]]:
    """Of 2 to 30 tokens."""
    tokenizer = resident.base.tokenizer
    texts = ("Hi", "What colour is the apple?", "The house", "Say it: the river of number 3 is white. " * 2)
    return [tokenizer(text)["input_ids"] for text in texts]


def test_an_unequal_batch_is_answered_as_one_by_one(llama: ResidentModel):
    asked = openings(llama)
    alone = [answers(llama, TASK, [own], 12)[0] for own in asked]
    assert answers(llama, TASK, asked, 12) == alone
    assert answers(llama, TASK, asked[::-1], 12) == alone[::-1]
    assert len({own.text for own in alone}) == len(asked)
    for own in alone:
        assert own.cut == (own.tokens == 12)


def test_what_is_drawn_depends_on_the_seed_alone(llama: ResidentModel):
    """However many others are asked, and with the generator of the process as it was."""
    import torch

    asked = openings(llama)
    before = torch.random.get_rng_state()
    first = answers(llama, TASK, asked, 8, Sampling(1.0, 0.9, seed=3))
    assert first == [answers(llama, TASK, [own], 8, Sampling(1.0, 0.9, seed=3))[0] for own in asked]
    assert first != answers(llama, TASK, asked, 8, Sampling(1.0, 0.9, seed=4))
    assert answers(llama, TASK, asked, 8, Sampling(1.0, 1e-6, seed=5)) == answers(llama, TASK, asked, 8)
    assert torch.equal(before, torch.random.get_rng_state())


def test_an_answer_ends_where_the_model_has_no_more_positions(tmp_path: Path):
    """A GPT-2 of 40 positions: 36 tokens leave 4, and the short one beside it still has its 10."""
    folder = _gpt2(tmp_path / "gpt2")
    resident = ResidentModel(load_base(ModelConfig(name=str(folder)), ()))
    resident.install(resident.initial(1, 1.0, 0))
    short, long = [5, 6, 7], [5 + i % 12 for i in range(36)]
    both = answers(resident, TASK, [short, long], 10)
    assert both == [answers(resident, TASK, [own], 10)[0] for own in (short, long)]
    assert (both[1].tokens <= 4, both[0].tokens > 4) == (True, True)
    with pytest.raises(DataError, match=r"prompt 2 has 40 tokens .* takes 40"):
        answers(resident, TASK, [short, [5] * 40], 10)
    with pytest.raises(DataError, match="prompt 1 has no token"):
        answers(resident, TASK, [[], short], 10)


def _gpt2(folder: Path) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM

    ids = {"bos_token_id": 2, "eos_token_id": 3, "vocab_size": len(models.WORDS), "initializer_range": models.SPREAD}
    with seeded(1):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", **{**models.CONFIGS["gpt2"], **ids}))
    model.save_pretrained(folder)
    models.save_tokenizer(folder, decoder=True)
    return folder
