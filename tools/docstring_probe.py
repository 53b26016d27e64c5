"""What the decoder makes of held-out docstrings: before, and after one epoch of LoRA on all the others.

    python -m tools.docstring_probe MODEL [--epochs 1] [--samples 5]

prints perplexities per answer token (the end token counts as one) over the held-out pairs of `stdlib-signatures`: of
the frequencies of the training answers' tokens, of the model as it is, and of the model with an adapter that was
trained on all training pairs in one place, by plain transformers and PEFT. The model card reports these figures.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from polyrank.core.seeds import torch_generator
from polyrank.quickstart.stdlib_docs import TOPICS
from polyrank.quickstart.stdlib_signatures import Pair, split

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answered:
    """Token ids of one prompt with its answer and end token, and how many of them are the answer's."""

    ids: list[int]
    answer: int


@dataclass(frozen=True)
class Nats:
    """Sum of the losses of answer tokens, how many there were, and how many were the likeliest ones."""

    nats: float
    tokens: int
    right: int

    @property
    def perplexity(self) -> float:
        """Exponential of the mean loss of a token."""
        return math.exp(self.nats / self.tokens)

    @property
    def accuracy(self) -> float:
        """Share of tokens that were the likeliest ones."""
        return self.right / self.tokens


def answered(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], limit: int = 256) -> list[Answered]:
    """Every pair as token ids; of a prompt that is too long the left goes, and too long answers are left out."""
    found = []
    for pair in pairs:
        prompt = tokenizer(pair.prompt, add_special_tokens=False).input_ids
        completion = [*tokenizer(pair.completion, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        if len(completion) < limit:
            found.append(Answered([*prompt[len(completion) - limit :], *completion], len(completion)))
    return found


def answer_logits(model: PreTrainedModel, batch: Sequence[Answered]) -> tuple[Tensor, Tensor]:
    """Logits (answer tokens of the batch, vocabulary) and the answer tokens they should give."""
    longest = max(len(one.ids) for one in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    wanted = torch.zeros(len(batch), longest, dtype=torch.bool)
    for i, one in enumerate(batch):
        ids[i, : len(one.ids)] = torch.tensor(one.ids)
        wanted[i, len(one.ids) - one.answer : len(one.ids)] = True
    with torch.autocast("cpu", torch.bfloat16):  # padding is on the right, where causal attention does not see it
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    return logits[wanted[:, 1:]].float(), ids[wanted]


@torch.inference_mode()
def measure(model: PreTrainedModel, data: Sequence[Answered]) -> Nats:
    """The model's loss on every answer token of the data."""
    model.eval()
    nats, tokens, right = 0.0, 0, 0
    for batch in _batches(sorted(data, key=lambda one: len(one.ids)), 32):
        logits, answers = answer_logits(model, batch)
        nats += functional.cross_entropy(logits, answers, reduction="sum").item()
        right += int((logits.argmax(-1) == answers).sum())
        tokens += len(answers)
    return Nats(nats, tokens, right)


def unigram(train: Sequence[Answered], test: Sequence[Answered], vocabulary: int) -> Nats:
    """The test answers' loss under the token frequencies of the training answers, one added to every count."""
    counts, wanted = (
        torch.bincount(torch.tensor([token for one in data for token in one.ids[-one.answer :]]), minlength=vocabulary)
        for data in (train, test)
    )
    likelihoods = ((counts + 1) / (counts.sum() + vocabulary)).double().log()
    return Nats(-(wanted * likelihoods).sum().item(), int(wanted.sum()), int(wanted[counts.argmax()]))


def adapt(
    model: PreTrainedModel, train: Sequence[Answered], epochs: int, rate: float, seed: int = 0
) -> PreTrainedModel:
    """The model with a LoRA of rank 16 on all linear layers, trained in batches of 16 by AdamW at a constant rate."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted: PreTrainedModel = get_peft_model(
            model, LoraConfig(r=16, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
        )
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    logger.info("%d parameters are trained on %d pairs", sum(map(torch.numel, trained)), len(train))
    optimiser = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    adapted.train()
    for epoch in range(epochs):
        order = torch.randperm(len(train), generator=torch_generator(seed, "docstring-probe", epoch)).tolist()
        for batch in _batches([train[i] for i in order], 16):
            logits, answers = answer_logits(adapted, batch)
            functional.cross_entropy(logits, answers).backward()  # type: ignore[no-untyped-call]  # torch's gap
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            optimiser.zero_grad()
    return adapted


@torch.inference_mode()
def write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """The likeliest continuation of the prompt, token by token, up to the end token or 40 tokens."""
    model.eval()
    encoded = tokenizer(prompt, return_tensors="pt")
    written = model.generate(**encoded, do_sample=False, max_new_tokens=40)[0, encoded.input_ids.shape[1] :]
    text: str = tokenizer.decode(written, skip_special_tokens=True)
    return text


def main(arguments: Iterable[str] | None = None) -> None:
    """Measure the model that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model folder in the transformers format")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(None if arguments is None else list(arguments))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(options.threads)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(options.model, local_files_only=True)
    train, test = split()
    encoded = answered(tokenizer, train)
    held_out = answered(tokenizer, test)
    logger.info("unigram %s", _told(unigram(encoded, held_out, len(tokenizer))))
    logger.info("as it is %s", _told(measure(model, held_out)))
    shown = test[:: max(1, len(test) // max(1, options.samples))][: options.samples]
    before = [write(model, tokenizer, pair.prompt) for pair in shown]
    started = time.process_time()
    adapted = adapt(model, encoded, options.epochs, options.rate)
    seconds = time.process_time() - started
    logger.info("adapted in %.0f processor-seconds: %s", seconds, _told(measure(adapted, held_out)))
    for topic in TOPICS:
        chosen = answered(tokenizer, [pair for pair in test if pair.topic == topic])
        logger.info("  %s %s", topic, _told(measure(adapted, chosen)))
    for pair, then in zip(shown, before, strict=True):
        now = write(adapted, tokenizer, pair.prompt)
        logger.info("%s%s\nbefore: %r\nafter: %r\n", pair.prompt, pair.completion, then, now)


def _told(found: Nats) -> str:
    return f"perplexity {found.perplexity:.1f}, {100 * found.accuracy:.1f} % of {found.tokens} tokens right"


def _batches(data: Sequence[Answered], size: int) -> Iterator[Sequence[Answered]]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


if __name__ == "__main__":
    main()
