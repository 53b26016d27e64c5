import functools
import logging

import pytest
import torch
from tools.docstring_probe import Answered, adapt, answer_logits, answered, main, measure, unigram, write
from tools.pretrain import Recipe, new_model, save, train_tokenizer
from torch.nn import functional

from polyrank.quickstart.stdlib_signatures import Pair, pairs
from tools import docstring_probe

TINY = Recipe(vocabulary=300, hidden=16, layers=1, heads=2, key_value_heads=1, feed_forward=32, positions=256)


@functools.cache  # read when a test asks, and not when tests are collected
def examples() -> list[Pair]:
    return pairs()[:40]


@pytest.fixture
def decoder():
    tokenizer = train_tokenizer([pair.prompt + pair.completion for pair in examples()], TINY)
    return new_model(tokenizer, TINY), tokenizer


def test_answers_are_kept_whole_and_prompts_lose_their_left(decoder):
    _, tokenizer = decoder
    for pair, whole, cut in zip(
        examples(), answered(tokenizer, examples(), 10**4), answered(tokenizer, examples(), 250), strict=True
    ):
        assert tokenizer.decode(whole.ids) == pair.prompt + pair.completion + tokenizer.eos_token
        assert tokenizer.decode(whole.ids[-whole.answer :]) == pair.completion + tokenizer.eos_token
        assert whole.ids[-len(cut.ids) :] == cut.ids
    tight = answered(tokenizer, examples(), 30)
    assert 0 < len(tight) < len(examples())
    assert max(len(one.ids) for one in tight) <= 30


def test_logits_are_those_of_each_example_alone(decoder):
    model, tokenizer = decoder
    batch = answered(tokenizer, examples()[:3])
    together, answers = answer_logits(model, batch)
    alone = [answer_logits(model, [one]) for one in batch]
    torch.testing.assert_close(together, torch.cat([logits for logits, _ in alone]), atol=0.02, rtol=0)
    assert answers.tolist() == [token for one in batch for token in one.ids[-one.answer :]]


def test_measure_is_the_sum_over_all_answer_tokens(decoder):
    model, tokenizer = decoder
    data = answered(tokenizer, examples())
    found = measure(model, data)
    logits, answers = answer_logits(model, data)
    assert found.tokens == sum(one.answer for one in data) == len(answers)
    assert found.nats == pytest.approx(functional.cross_entropy(logits, answers, reduction="sum").item(), rel=1e-3)


def test_unigram_adds_one_to_every_count():
    """Training answers 2, 2, 3 of a vocabulary of 4: p(2) = 3/7, p(0) = 1/7. The test answers 2, 0 have 7 / 3^.5."""
    found = unigram([Answered([9, 2, 2, 3], 3)], [Answered([3, 3, 2, 0], 2)], 4)
    assert found.perplexity == pytest.approx(7 / 3**0.5)
    assert found.accuracy == 0.5


def test_an_adapter_learns_the_answers_it_is_shown(decoder):
    """Not much: the small random embeddings, which stay as they are, bound the logits."""
    model, tokenizer = decoder
    data = answered(tokenizer, examples())
    before = measure(model, data).perplexity
    assert measure(adapt(model, data, epochs=10, rate=3e-2), data).perplexity < 0.97 * before
    assert isinstance(write(model, tokenizer, examples()[0].prompt), str)


def test_the_command_tells_all_figures(decoder, tmp_path, monkeypatch, caplog):
    save(*decoder, tmp_path)
    monkeypatch.setattr(docstring_probe, "split", lambda: (examples()[:30], examples()[30:]))
    monkeypatch.setattr(docstring_probe, "TOPICS", ("GUI",))
    with caplog.at_level(logging.INFO):
        main([str(tmp_path), "--samples", "1"])
    told = [record.getMessage() for record in caplog.records if record.name == "tools.docstring_probe"]
    assert [line.split()[0] for line in told] == ["unigram", "as", "4096", "adapted", "GUI", "#"]
