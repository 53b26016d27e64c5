import functools
from dataclasses import replace
from itertools import islice, pairwise

import pytest
import torch
from tools.pretrain import END, PAD, Recipe, Training, batches, new_model, pretrain, rows, save, train_tokenizer
from tools.reading import Reading
from transformers import AutoModelForCausalLM, AutoTokenizer

from polyrank.quickstart.stdlib_signatures import pairs
from tools import pretrain as module

TINY = Recipe(
    vocabulary=300, hidden=16, layers=1, heads=2, key_value_heads=1, feed_forward=32, positions=64, tokens_a_step=128,
    lengths=((0.0, 32), (0.5, 64)),
)  # fmt: skip


@functools.cache  # read when a test asks, and not when tests are collected
def sample() -> list[str]:
    return [pair.prompt + pair.completion for pair in pairs()[:100]]


@pytest.fixture(autouse=True)
def _uncompiled(monkeypatch):
    """Compiling takes a minute, and a compiler."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(sample(), TINY)


def test_tokenizer_gives_every_text_back_and_adds_nothing(tokenizer):
    assert len(tokenizer) == 300
    assert (tokenizer.pad_token, tokenizer.eos_token, tokenizer.bos_token) == (PAD, END, None)
    for text in (*sample(), "Ünïcode 漢字\t\r\n  and  spaces ", " ."):
        ids = tokenizer(text).input_ids
        assert tokenizer.decode(ids) == text
        assert not {tokenizer.pad_token_id, tokenizer.eos_token_id} & set(ids)
    assert tokenizer(f"a{END}").input_ids[-1] == tokenizer.eos_token_id


def test_rows_begin_with_documents_and_go_on_with_what_was_cut_off():
    """One document of 20 tokens and its end in rows of 8: 8, 8, and 5 that fill no row. Short ones share a row."""
    alone = list(rows([list(range(30, 50))], 8, 1, torch.Generator()))
    assert alone == [list(range(30, 38)), list(range(38, 46))]
    documents = [[10, 11, 12], [20, 21, 22, 23, 24, 25], list(range(30, 50))]
    for row in rows(documents, 8, 1, torch.Generator().manual_seed(0)):
        assert len(row) == 8
        assert all(1 in (left, right) or right == left + 1 for left, right in pairwise(row))


def test_what_was_cut_off_does_not_wait_for_the_end_of_the_epoch():
    """100 documents that fill two rows each, and what begins rows: early rests, late beginnings."""
    beginning, rest = 2, 3
    documents = [[beginning] * 8 + [rest] * 7] * 100
    firsts = [row[0] for row in rows(documents, 8, 1, torch.Generator().manual_seed(0))]
    assert firsts.count(beginning) == firsts.count(rest) == 100
    assert rest in firsts[:50]
    assert beginning in firsts[-50:]


def test_every_epoch_has_another_order():
    documents = [[i] * 31 for i in range(2, 18)]
    one, two, three, four, five = islice(batches(documents, TINY, 1, 0, 32), 5)
    assert one.shape == (4, 32)
    first = torch.cat([one, two, three, four])[:, 0].tolist()
    assert sorted(first) == list(range(2, 18))
    assert five[:, 0].tolist() != one[:, 0].tolist()


def test_a_saved_model_loads_with_its_stop_token_and_tied_embeddings(tokenizer, tmp_path):
    model = new_model(tokenizer, TINY)
    save(model, tokenizer, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True)
    assert loaded.dtype == torch.bfloat16
    assert loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight
    assert loaded.generation_config.eos_token_id == loaded.config.eos_token_id == tokenizer.eos_token_id
    torch.testing.assert_close(loaded.model.norm.weight.float(), model.model.norm.weight.detach())
    assert AutoTokenizer.from_pretrained(tmp_path)(sample()[0]).input_ids == tokenizer(sample()[0]).input_ids


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch 2.9 or newer trains the decoder")
def test_training_goes_on_exactly_where_it_was(tokenizer, tmp_path):
    source = batches([tokenizer(text).input_ids for text in sample()], TINY, 1, 0, 32)
    chosen = list(islice(source, 6))
    whole, half = (Training(new_model(tokenizer, TINY), TINY) for _ in range(2))
    losses = [whole.step(ids, 0.1) for ids in chosen]
    assert losses[:3] == [half.step(ids, 0.1) for ids in chosen[:3]]
    half.store(tmp_path / "state.pt")
    resumed = Training(new_model(tokenizer, replace(TINY, seed=1)), TINY)
    resumed.resume(tmp_path / "state.pt")
    assert losses[3:] == [resumed.step(ids, 0.1) for ids in chosen[3:]]
    assert (resumed.steps, resumed.tokens) == (6, 6 * 128)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch 2.9 or newer trains the decoder")
def test_a_tiny_decoder_is_finished_when_its_time_is_up(tmp_path, monkeypatch):
    """A clock that ticks once a step: 60 steps in a minute, both lengths are used, and it learns."""
    ticks = iter(range(10_000))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(ticks)))
    reading = Reading(sample(), sample()[:10])
    reached = pretrain(reading, tmp_path, TINY, minutes=1.0)
    assert reached < 0.7 * TINY.vocabulary
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config.vocab_size == 300
