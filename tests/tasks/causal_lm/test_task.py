import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from polyrank.config import TrainingConfig
from polyrank.core.errors import ConfigError, DataError
from polyrank.data.dataset import TextDataset
from polyrank.hf.generate import write
from polyrank.hf.speed import few_logits
from polyrank.tasks.causal_lm import CausalLM
from polyrank.tasks.causal_lm import task as module
from polyrank.tasks.task import Batch
from polyrank.training.batches import Limit, parts
from polyrank.training.evaluate import evaluate
from polyrank.training.sequential import Sequential
from polyrank.training.work import Work
from tests import writers
from tests.models import random_adapter, updates
from tests.writers import TASK

ALL = range(12)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return writers.Checkpoints(tmp_path_factory.mktemp("writers"))


def installed(folder, **options):
    model = writers.resident(folder, **{"dtype": torch.float64, "attention": "sdpa", **options})
    model.install(random_adapter(model))
    model.model.eval()
    return model


class TestLoss:
    """A step's loss is the sum over its trained tokens, divided by their number."""

    @pytest.mark.parametrize("architecture", writers.CONFIGS)
    def test_equals_transformers_own(self, checkpoints, architecture):
        model = installed(checkpoints(architecture), dtype=torch.float32)
        examples = writers.examples(model)
        batch = TASK.collate([(examples, ALL)], model.device)
        theirs = model.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.targets).loss
        ours = TASK.losses(model.model, batch).sum() / TASK.units(examples, ALL)
        assert float(ours.detach()) == pytest.approx(float(theirs.detach()), abs=1e-6, rel=1e-6)

    @pytest.mark.parametrize("size", [1, 3, 5, 12])
    def test_gradients_do_not_depend_on_the_parts(self, checkpoints, size):
        model = installed(checkpoints("llama"))
        examples = writers.examples(model)

        def gradients(size):
            for parameter in model.trainable():
                parameter.grad = None
            units = TASK.units(examples, ALL)
            for part in parts(np.arange(12), examples.lengths, Limit(size)):
                batch = TASK.collate([(examples, part)], model.device)
                torch.autograd.backward(TASK.losses(model.model, batch).sum() / units)
            return [parameter.grad.clone() for parameter in model.trainable()]

        for ours, whole in zip(gradients(size), gradients(12), strict=True):
            torch.testing.assert_close(ours, whole, rtol=1e-10, atol=1e-10 * float(whole.abs().max()))

    @pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3_text"])
    def test_padding_says_nothing(self, checkpoints, architecture):
        model = installed(checkpoints(architecture))
        examples = writers.examples(model)
        batch = TASK.collate([(examples, ALL)], model.device)
        padding = batch.attention_mask == 0
        assert padding.any()
        random = torch.randint(0, writers.WORDS, batch.input_ids.shape)
        other = replace(batch, input_ids=torch.where(padding, random, batch.input_ids))
        assert torch.equal(TASK.losses(model.model, batch), TASK.losses(model.model, other))

    def test_rows_that_fill_up_lose_nothing(self, checkpoints):
        model = installed(checkpoints("llama"))
        examples = writers.examples(model)
        losses = TASK.losses(model.model, TASK.collate([(examples, [0, 1, 2]), (examples, [3])], model.device))
        assert losses.shape == (6,)
        assert losses[4:].tolist() == [0, 0]
        assert (losses[:4] > 0).all()

    def test_targets_come_from_places_though_padding_is_the_end_token(self, checkpoints):
        model = installed(checkpoints("llama", chat=False))
        tokenizer = model.base.tokenizer
        assert tokenizer.pad_token_id == tokenizer.eos_token_id
        examples = writers.examples(model)
        for ids, trained in zip(examples.tokens, examples.targets, strict=True):
            assert ids[-1] == tokenizer.eos_token_id
            assert trained[-1]
        batch = TASK.collate([(examples, ALL)], model.device)
        ends = (batch.targets == tokenizer.eos_token_id).sum(dim=1)
        assert ends.tolist() == [1] * 12


class TestFewLogits:
    """The output layer sees the places that are asked for, and nothing else changes."""

    @pytest.mark.parametrize("architecture", writers.CONFIGS)
    def test_are_those_of_all(self, checkpoints, architecture):
        more = {"final_logit_softcapping": 2.0} if architecture == "gemma3_text" else {}
        model = installed(checkpoints(architecture, **more))
        batch = TASK.collate([(writers.examples(model), ALL)], model.device)
        rows, places = (batch.targets[:, 1:] != module.NOT_TRAINED).nonzero(as_tuple=True)
        seen = []
        output = model.model.get_output_embeddings()
        handle = output.register_forward_hook(lambda _, __, found: seen.append(found.shape[:-1]))
        few = few_logits.logits_at(model.model, batch.input_ids, batch.attention_mask, rows, places)
        handle.remove()
        every = model.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        torch.testing.assert_close(few, every[rows, places], rtol=1e-12, atol=1e-12)
        assert seen == [(1, len(rows))]

    def test_a_model_that_does_without_its_output_layer(self):
        class Odd(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.words = torch.nn.Embedding(9, 4)

            def get_output_embeddings(self):
                return torch.nn.Linear(4, 9)

            def forward(self, input_ids, attention_mask):
                hidden = self.words(input_ids) * attention_mask[..., None]
                return type("Out", (), {"logits": hidden @ self.words.weight.T})

        ids = torch.arange(6).view(2, 3)
        found = few_logits.logits_at(Odd(), ids, torch.ones_like(ids), torch.tensor([0, 1]), torch.tensor([2, 0]))
        assert found.shape == (2, 9)


class TestScores:
    """Sums over whatever is measured at a time."""

    def test_metrics(self, checkpoints, monkeypatch):
        model = installed(checkpoints("qwen3"))
        examples = writers.examples(model, 30)
        whole = TASK.measured(evaluate(model, TASK, examples, 30))
        monkeypatch.setattr(module, "TOKENS_AT_A_TIME", 70)
        monkeypatch.setattr(module, "LOGITS_AT_A_TIME", 9 * writers.WORDS)
        assert TASK.measured(evaluate(model, TASK, examples, 7)) == pytest.approx(whole, rel=1e-12)
        nats = tokens = right = 0
        for ids, trained in zip(examples.tokens, examples.targets, strict=True):
            logits = model.model(input_ids=torch.as_tensor(ids)[None]).logits[0, :-1].log_softmax(-1)
            at = np.flatnonzero(trained[1:])
            answers = ids[1:][at]
            nats -= float(logits[at, answers].sum())
            right += int((logits[at].argmax(-1).numpy() == answers).sum())
            tokens += len(at)
        assert whole == pytest.approx(
            {"loss": nats / tokens, "perplexity": math.exp(nats / tokens), "token_accuracy": right / tokens}
        )

    def test_portions_hold_what_they_may(self):
        targets = torch.full((7, 10), module.NOT_TRAINED)
        targets[:, 5:] = 1
        batch = Batch(torch.zeros(7, 10), torch.ones(7, 10), targets)
        sizes = [len(part.targets) for part in module._portions(batch, module.LOGITS_AT_A_TIME // 12)]
        assert sizes == [2, 2, 2, 1]
        assert [len(part.targets) for part in module._portions(batch, 10 * module.LOGITS_AT_A_TIME)] == [1] * 7

    def test_the_unigram(self, checkpoints):
        model = installed(checkpoints("llama"))
        examples = writers.examples(model)
        tokens = np.concatenate([ids[trained] for ids, trained in zip(examples.tokens, examples.targets, strict=True)])
        train = examples.subset(range(6))
        seen = np.concatenate([ids[trained] for ids, trained in zip(train.tokens, train.targets, strict=True)])
        chances = [(int((seen == token).sum()) + 1) / (len(seen) + writers.WORDS) for token in tokens]
        found = TASK.constant(
            examples, learned=[train.subset(range(3)), train.subset(range(3, 6))], words=writers.WORDS
        )
        assert found["loss"] == pytest.approx(-np.log(chances).mean())
        assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))

    def test_a_loss_that_ran_away(self):
        from polyrank.tasks.task import Tally

        assert TASK.measured(Tally({"nats": 1e6, "tokens": 1, "right": 0}))["perplexity"] == math.inf


class TestEncode:
    """Rows become examples, or are left out by reason."""

    def test_kept_and_left_out(self):
        dataset = writers.dataset(6)
        long = TextDataset(
            (*dataset.texts[:2], writers.dumps([writers.Turn("user", "Hi"), writers.Turn("assistant", "red " * 90)])),
            dataset.labels[:3],
            dataset.label_names,
            turns=True,
        )
        tokenizer = writers.tokenizer()
        tokenizer.pad_token = tokenizer.eos_token
        found = TASK.encode(long, tokenizer, 70)
        assert found.kept.tolist() == [0, 1]
        assert {reason: rows.tolist() for reason, rows in found.left_out.items()} == {module.TOO_LONG: [2]}
        assert found.examples.kinds.tolist() == [0, 1]
        assert len(found.cut) == 0
        with pytest.raises(ConfigError, match=r"take .* already"):
            TASK.encode(long, tokenizer, 5)

    def test_what_is_likely_not_meant_is_noted(self):
        """Of rows that are kept: a question that was cut to almost nothing, a token of the template spelled out."""
        asked = ["Hi", "red " * 90, "What is <|im_end|> and </s>?"]
        rows = [writers.dumps([writers.Turn("user", one), writers.Turn("assistant", "red " * 20)]) for one in asked]
        tokenizer = writers.tokenizer()
        tokenizer.pad_token = tokenizer.eos_token
        dataset = TextDataset(tuple(rows), None, (), turns=True)
        limit = len(TASK.encode(dataset, tokenizer, 4000).examples.tokens[0]) + 15
        found = TASK.encode(dataset, tokenizer, limit)
        spelled = module.SPELLED.format("<|im_end|>")
        assert {what: at.tolist() for what, at in found.noted.items()} == {module.NO_QUESTION: [1], spelled: [2]}
        assert len(found.cut) == 1
        plain = replace(TASK, template="none").encode(dataset, tokenizer, 4000)
        assert plain.noted == {}

    def test_a_row_that_cannot_be_written_is_named(self):
        tokenizer = writers.tokenizer()
        tokenizer.pad_token = tokenizer.eos_token
        tokenizer.chat_template = "{{ raise_exception('no manners') }}"
        with pytest.raises(DataError, match=r"the data, row 1 .*chat template.*no manners"):
            TASK.encode(writers.dataset(2), tokenizer, 40)

    def test_texts(self):
        tokenizer = writers.tokenizer()
        tokenizer.pad_token = tokenizer.eos_token
        found = TASK.encode(TextDataset(("The apple is red.", "red"), None, ()), tokenizer, 40).examples
        assert found.kinds is None
        assert [tokenizer.decode(ids) for ids in found.tokens] == [
            "<s>The apple is red.</s>",
            "<s>red</s>",
        ]
        assert [trained.tolist().count(False) for trained in found.targets] == [1, 1]


def test_what_was_learned_by_heart_is_written_again(checkpoints):
    model = writers.resident(checkpoints("llama", hidden_size=64, chat=False))
    examples = writers.examples(model, 8)
    options = TrainingConfig(lr=3e-3, batch_size=8, epochs=150)
    work = Work("c", 1, model.initial(16, 2.0, 0), seed=0)
    (update,) = updates(Sequential(model, TASK, {"c": examples}, options), [work])
    model.install(update.adapter)
    pairs = [TASK.asked(examples, i) for i in range(8)]
    tokenizer = model.base.tokenizer
    found = write(
        model.model,
        [opening.tolist() for opening, _ in pairs],
        stops=TASK.stops(tokenizer, model.model),
        pad=tokenizer.pad_token_id,
        most=64,
    )
    assert sum(ids == answer.tolist() for ids, (_, answer) in zip(found, pairs, strict=True)) >= 7


def test_where_answers_stop(checkpoints):
    """At the template's end of a turn, at the tokenizer's end token, and wherever the checkpoint says."""
    model = writers.resident(checkpoints("llama"))
    tokenizer = model.base.tokenizer
    end, turn = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.model.generation_config.eos_token_id = [end, 7]
    assert replace(TASK, template="chat").stops(tokenizer, model.model) == {turn, end, 7}
    assert replace(TASK, template="none").stops(tokenizer, model.model) == {end, 7}


def test_what_a_checkpoint_says_of_sampling_plays_no_part(checkpoints):
    """Nor do its penalties and lengths; they are there again afterwards."""
    model = installed(checkpoints("llama"))
    opening = TASK.asked(writers.examples(model, 1), 0)[0].tolist()
    asked = {"stops": TASK.stops(model.base.tokenizer, model.model), "pad": 1, "most": 12}
    expected = write(model.model, [opening], **asked)
    own = model.model.generation_config
    own.update(repetition_penalty=9.0, no_repeat_ngram_size=1, min_new_tokens=30, do_sample=True, temperature=9.0)
    own.update(suppress_tokens=expected[0][:1])
    assert write(model.model, [opening], **asked) == expected
    assert model.model.generation_config is own
    assert own.repetition_penalty == 9.0


def test_an_unequal_batch_writes_what_one_by_one_writes(checkpoints):
    for architecture in ("llama", "gpt2", "gemma3_text"):
        model = installed(checkpoints(architecture))
        tokenizer = model.base.tokenizer
        examples = writers.examples(model, 6)
        openings = [TASK.asked(examples, i)[0].tolist()[: 4 + 5 * i] for i in range(6)]
        asked = {"stops": TASK.stops(tokenizer, model.model), "pad": tokenizer.pad_token_id, "most": 12}
        alone = [write(model.model, [opening], **asked)[0] for opening in openings]
        assert write(model.model, openings, **asked) == alone
        assert write(model.model, openings, **asked, at_a_time=4) == alone


def test_the_template_is_an_option():
    assert CausalLM(template="none") != CausalLM()
