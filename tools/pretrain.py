"""The script that made the decoder: a small Llama that has read Python without its docstrings, and English.

    python -m tools.pretrain --dolly JSONL --minutes 95 -o DIR

It trains a byte-level BPE tokenizer and then the model, on one stream of documents with an end token behind each. The
texts are in `tools/reading.py`. The learning rate depends on the share of `--minutes` that has passed: it rises, stays,
and falls to zero from a quarter of the time on, so the model is finished when the time is up, however fast the machine.
A state is saved every few minutes; the same command goes on from it. Matrices are trained with Muon
(https://kellerjordan.github.io/posts/muon/), embeddings and norms with AdamW.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from polyrank.core.seeds import derive, torch_generator
from tools.reading import Reading, gather

logger = logging.getLogger(__name__)

PAD, END = "<|pad|>", "<|end|>"
STATE = "state.pt"


@dataclass(frozen=True)
class Recipe:
    """All that decides what comes out, besides the texts and the time."""

    vocabulary: int = 2048
    hidden: int = 192
    layers: int = 5
    heads: int = 6
    key_value_heads: int = 2
    feed_forward: int = 448
    positions: int = 512
    tokens_a_step: int = 4096
    lengths: tuple[tuple[float, int], ...] = ((0.0, 256), (0.8, 512))
    """From which share of the time on a row has how many tokens."""
    matrix_rate: float = 1e-2
    rest_rate: float = 3e-3
    weight_decay: float = 0.05
    warm_up: float = 0.02
    stable: float = 0.25
    seed: int = 0


def train_tokenizer(texts: Sequence[str], recipe: Recipe) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer learned from the texts; nothing is unknown to it, and it adds no tokens by itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        model_max_length=recipe.positions,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def new_model(tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> LlamaForCausalLM:
    """An untrained Llama for the tokenizer, input and output embeddings tied."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.key_value_heads,
        intermediate_size=recipe.feed_forward,
        max_position_embeddings=recipe.positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="eager",  # compiled, a third faster than sdpa in bfloat16 on the CPU where tried
    )
    with torch.random.fork_rng(devices=[]):  # transformers draws from the global generator
        torch.manual_seed(derive(recipe.seed, "decoder", "init"))
        model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, max_new_tokens=64
    )
    return model


def rows(documents: Sequence[list[int]], length: int, end: int, generator: torch.Generator) -> Iterator[list[int]]:
    """One epoch of the documents in a random order, packed into rows of `length` tokens.

    A row begins with a document, as a prompt does. What its last document has too much becomes a document of its own
    if it is worth a quarter of a row, else it is dropped for this epoch. Its turn is drawn, too: were it the last,
    every epoch would end on nothing but rests.
    """
    queue = deque(documents[i] for i in torch.randperm(len(documents), generator=generator).tolist())
    row: list[int] = []
    while queue:
        document = [*queue.popleft(), end]
        room = length - len(row)
        row += document[:room]
        if len(row) == length:
            yield row
            row = []
            if len(document) - room >= length // 4:
                turn = torch.randint(len(queue) + 1, (), generator=generator).item()
                queue.insert(int(turn), document[room:-1])


def share_of_rate(passed: float, recipe: Recipe) -> float:
    """The learning rate's factor when `passed` (0 to 1) of the time is over: up, level, then linearly to 0.

    >>> [share_of_rate(passed, Recipe()) for passed in (0.01, 0.2, 0.625, 1.0)]
    [0.5, 1.0, 0.5, 0.0]
    """
    return max(0.0, min(passed / recipe.warm_up, 1.0, (1 - passed) / (1 - recipe.stable)))


def perplexity(model: LlamaForCausalLM, held_out: Sequence[list[int]]) -> float:
    """Exponential of the mean loss in nats over all tokens of the rows but their first."""
    model.eval()
    total = 0.0
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for start in range(0, len(held_out), 16):
            ids = torch.tensor(held_out[start : start + 16])
            total += next_token_loss(model(input_ids=ids).logits, ids).item() * len(ids)
    model.train()
    return math.exp(total / len(held_out))


def next_token_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Mean nats per token of logits (rows, tokens, vocabulary) for the ids (rows, tokens)."""
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """The model in bfloat16, its tokenizer and its stop token, as `from_pretrained` reads them."""
    copy = LlamaForCausalLM(model.config).to(torch.bfloat16)
    copy.load_state_dict(model.state_dict())
    copy.generation_config = model.generation_config
    copy.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """The tokenizer's files, under the class name that versions 4 and 5 of transformers both know."""
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    said = json.loads(file.read_text(encoding="utf-8"))
    said["tokenizer_class"] = "PreTrainedTokenizerFast"
    for key in ("is_local", "local_files_only"):  # how it was loaded, where it was
        said.pop(key, None)
    file.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


class Training:
    """The model, its optimisers and how far they are; `step` by `step`, resumable from a file."""

    def __init__(self, model: LlamaForCausalLM, recipe: Recipe) -> None:
        self.model, self.recipe = model, recipe
        matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
        chosen = {id(p) for p in matrices}
        rest = [p for p in model.parameters() if id(p) not in chosen]
        self.optimisers: dict[float, torch.optim.Optimizer] = {
            recipe.matrix_rate: torch.optim.Muon(
                matrices, lr=0.0, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"
            ),
            recipe.rest_rate: torch.optim.AdamW(rest, lr=0.0, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
        }
        self.loss = torch.compile(self._loss, dynamic=False)
        self.steps, self.seconds, self.tokens = 0, 0.0, 0

    def step(self, ids: Tensor, passed: float) -> float:
        """One update on ids (rows, tokens); the loss before it, in nats per token."""
        with torch.autocast("cpu", torch.bfloat16):
            loss = self.loss(ids)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for rate, optimiser in self.optimisers.items():
            for group in optimiser.param_groups:
                group["lr"] = rate * share_of_rate(passed, self.recipe)
            optimiser.step()
            optimiser.zero_grad()
        self.steps, self.tokens = self.steps + 1, self.tokens + ids.numel()
        return loss.item()

    def _loss(self, ids: Tensor) -> Tensor:
        return next_token_loss(self.model(input_ids=ids, use_cache=False).logits, ids)

    def store(self, file: Path) -> None:
        """Write all that `resume` needs; a file that is there stays whole until the new one is."""
        state = {
            "model": self.model.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers.values()],
            "counters": (self.steps, self.seconds, self.tokens),
        }
        torch.save(state, file.with_suffix(".new"))
        file.with_suffix(".new").replace(file)

    def resume(self, file: Path) -> None:
        """Go on from what `store` wrote."""
        state = torch.load(file, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimiser, stored in zip(self.optimisers.values(), state["optimisers"], strict=True):
            optimiser.load_state_dict(stored)
        self.steps, self.seconds, self.tokens = state["counters"]


def batches(documents: Sequence[list[int]], recipe: Recipe, end: int, start: int, length: int) -> Iterator[Tensor]:
    """Endless batches (rows, length) of `tokens_a_step` tokens; another order for every epoch and every `start`."""
    epoch = 0
    waiting: list[list[int]] = []
    while True:
        for row in rows(documents, length, end, torch_generator(recipe.seed, "decoder", start, length, epoch)):
            waiting.append(row)
            if len(waiting) * length >= recipe.tokens_a_step:
                yield torch.tensor(waiting)
                waiting = []
        epoch += 1


def pretrain(reading: Reading, out: Path, recipe: Recipe, minutes: float, every: float = 10.0) -> float:
    """Train a tokenizer and a model for so many minutes, saving every so many; the held-out perplexity."""
    out.mkdir(parents=True, exist_ok=True)
    if (out / STATE).is_file():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(out)
    else:
        tokenizer = train_tokenizer(reading.train, recipe)
        save_tokenizer(tokenizer, out)
    training = Training(new_model(tokenizer, recipe), recipe)
    if (out / STATE).is_file():
        training.resume(out / STATE)
    end = tokenizer.eos_token_id
    documents, held_out = (tokenizer(list(texts))["input_ids"] for texts in (reading.train, reading.held_out))
    judged = list(rows(held_out, recipe.lengths[0][1], end, torch_generator(recipe.seed, "decoder", "held out")))[:256]
    total = sum(len(document) + 1 for document in documents)
    logger.info("%d documents, %d tokens, %d parameters", len(documents), total, training.model.num_parameters())
    length, source = 0, iter(())
    saved, clock = training.seconds, time.monotonic() - training.seconds
    training.model.train()
    while training.seconds < 60 * minutes:
        passed = training.seconds / (60 * minutes)
        wanted = [tokens for since, tokens in recipe.lengths if passed >= since][-1]
        if wanted != length:
            length, source = wanted, batches(documents, recipe, end, training.steps, wanted)
        loss = training.step(next(source), passed)
        training.seconds = time.monotonic() - clock
        if training.steps % 50 == 0:
            rate = training.tokens / training.seconds
            logger.info("%.3f step %d loss %.4f, %.0f tokens/s", passed, training.steps, loss, rate)
        if training.seconds - saved >= 60 * every or training.steps == 200:
            saved = training.seconds
            training.store(out / STATE)
            save(training.model, tokenizer, out)
            logger.info("step %d held-out perplexity %.2f", training.steps, perplexity(training.model, judged))
    save(training.model, tokenizer, out)
    reached = perplexity(training.model, judged)
    epochs = training.tokens / total
    logger.info("%d steps, %.1f epochs, held-out perplexity %.2f", training.steps, epochs, reached)
    return reached


def main(arguments: Iterable[str] | None = None) -> None:
    """Train a decoder as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dolly", type=Path, required=True, help="databricks-dolly-15k, JSON lines")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder to write, and to go on from")
    parser.add_argument("--minutes", type=float, default=95.0)
    parser.add_argument("--every", type=float, default=10.0, help="minutes between saved states")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(None if arguments is None else list(arguments))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    pretrain(gather(options.dolly), options.out, Recipe(), options.minutes, options.every)
    (options.out / STATE).unlink(missing_ok=True)


if __name__ == "__main__":
    main()
