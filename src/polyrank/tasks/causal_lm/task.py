"""Causal language modelling: to write the answer to a prompt, the assistant's turns, or a text."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from polyrank.core.errors import ConfigError, DataError
from polyrank.data.dataset import TextDataset
from polyrank.data.turns import Turn, loads
from polyrank.tasks.causal_lm.prompts import AUTO, NONE, Prompts, prompts_for
from polyrank.tasks.causal_lm.rows import Row, answered, whole_text
from polyrank.tasks.metric import SHARE, Metric
from polyrank.tasks.task import Batch, Encoded, Examples, Rows, Tally, Task
from polyrank.tasks.tokens import encoding, padded

if TYPE_CHECKING:  # as in `polyrank.tasks.task`
    import torch
    from torch import Tensor, nn

log = logging.getLogger(__name__)

TOO_LONG = "the answer is longer than data.max_tokens"
"""Why a row is left out: what is learned of it does not fit, with the template around it."""
NO_QUESTION = "next to nothing of the question is left beside the answer; data.max_tokens gives room"
"""Noted where less than `LEAST_ASKED` of its text is."""
LEAST_ASKED = 0.1
SPELLED = "{} is spelled out in the text and read as that token of the chat template; mend it if that is not meant"
NOT_TRAINED = -100
"""In a batch's targets, where nothing is learned; as transformers has it."""
TOKENS_AT_A_TIME, LOGITS_AT_A_TIME = 2**13, 2**26
"""What is measured at a time, whatever the batch size: tokens, and logits (a quarter of a GB in float32)."""


@dataclass(frozen=True)
class CausalLM(Task):
    """Targets are the trained tokens of each row: bool arrays as long as the row, in an array of objects, ``(n,)``.

    Args:
        template: how a prompt is written; ``data.template`` of the configuration.
    """

    template: str = AUTO

    metrics: ClassVar = (
        Metric(
            *("loss", "loss", "lower", "nats"),
            about="Mean cross-entropy per trained token of the test set, in nats.",
        ),
        Metric(
            *("perplexity", "perplexity", "lower", "", 2),
            least=1,
            about="exp(loss): among how many words the model hesitates, as it were, at each trained token.",
        ),
        Metric(
            *("token_accuracy", "token accuracy", "higher", SHARE, 1),
            most=1,
            curve=False,
            about="Share of the trained tokens that the model takes for the likeliest, given all tokens before them.",
        ),
    )
    writes: ClassVar = True
    defaults: ClassVar = {
        "model": {"name": "quickstart-decoder", "targets": "all-linear"},
        "data": {"train": "stdlib-signatures", "max_tokens": 512},
        "training": {"lr": 3e-4, "decay": "cosine"},
        "evaluation": {"batch_size": 8},
    }

    def outputs(self, dataset: TextDataset) -> tuple[str, ...]:  # noqa: ARG002  # of what classifiers have
        """Nothing: the model has its own output layer, with a number for each word."""
        return ()

    def resolved(self, dataset: TextDataset, tokenizer: Any) -> Self:
        """The task with its template chosen: of whole texts none, of turns the tokenizer's own where it has one."""
        if self.template == AUTO and not dataset.turns:
            return replace(self, template=NONE)
        return replace(self, template=prompts_for(tokenizer, self.template).template)

    def encode(self, dataset: TextDataset, tokenizer: Any, max_tokens: int, *, end: int | None = None) -> Encoded:  # noqa: ARG002
        """Every conversation or text whose answer fits."""
        limit = min(max_tokens, tokenizer.model_max_length)
        prompts = prompts_for(tokenizer, self.resolved(dataset, tokenizer).template)
        least = _around(prompts, dataset)
        if limit <= least:
            raise ConfigError(
                f"data.max_tokens is {max_tokens}"
                + (f", and the model takes {limit}" if limit < max_tokens else "")
                + f"; the template and the end token around an answer take {least} already: expected more"
            )
        rows = [self._row(dataset, prompts, i, limit) for i in range(len(dataset))]
        kept = np.array([i for i, row in enumerate(rows) if row is not None], dtype=np.int64)
        found = [row for row in rows if row is not None]
        targets = np.empty(len(found), dtype=object)
        targets[:] = [row.trained for row in found]
        kinds = None if dataset.labels is None else dataset.labels[kept]
        examples = Examples(tuple(row.ids for row in found), targets, tokenizer.pad_token_id, kinds)
        lost = np.setdiff1d(np.arange(len(rows)), kept)
        cut = kept[np.fromiter((row.cut for row in found), dtype=bool, count=len(found))]
        return Encoded(examples, kept, cut, {TOO_LONG: lost} if len(lost) else {}, _noted(rows))

    def _row(self, dataset: TextDataset, prompts: Prompts, index: int, limit: int) -> Row | None:
        text = dataset.texts[index]
        with encoding(dataset, index):
            try:
                if not dataset.turns:
                    return whole_text(prompts, text, limit)
                turns = loads(text)
                row = answered(prompts, turns, limit)
                return row and replace(row, spelled=prompts.spelled(turns))
            except DataError as error:
                template = "its tokenizer's chat template" if prompts.chat else f"data.template {prompts.template!r}"
                raise DataError(f"{dataset.place(index)} cannot be written with {template}: {error}") from error

    def units(self, examples: Examples, indices: Rows) -> int:
        """The number of trained tokens."""
        return sum(int(examples.targets[i].sum()) for i in indices)

    def collate(self, parts: Sequence[tuple[Examples, Rows]], device: torch.device) -> Batch:
        """Padded on the right; targets are ids, ``(rows, tokens)``, and `NOT_TRAINED` where nothing is learned."""
        return padded(parts, device, trained=NOT_TRAINED)

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross entropy in nats, summed over each row's trained tokens, ``(rows,)``."""
        import torch

        from polyrank.hf.speed.few_logits import logits_at

        rows, places, answers = _trained(batch.targets)
        count, width = batch.targets.shape
        each = _cross_entropy(logits_at(model, batch.input_ids, batch.attention_mask, rows, places), answers)
        spread = torch.zeros(count * width, dtype=each.dtype, device=each.device)
        return spread.index_put((rows * width + places,), each).view(count, width).sum(dim=1)

    def scores(self, model: nn.Module, batch: Batch) -> Tally:
        """Nats, trained tokens, and how many of them were the likeliest; some rows at a time."""
        from polyrank.hf.speed.few_logits import logits_at

        found: Tally | None = None
        words = _words(model)
        for part in _portions(batch, words):
            rows, places, answers = _trained(part.targets)
            logits = logits_at(model, part.input_ids, part.attention_mask, rows, places)
            own = Tally(
                {
                    "nats": float(_cross_entropy(logits, answers).double().sum()),
                    "tokens": len(answers),
                    "right": int((logits.argmax(dim=-1) == answers).sum()),
                }
            )
            found = own if found is None else found + own
        assert found is not None
        return found

    def opening(self, tokenizer: Any, turns: Sequence[Turn]) -> list[int]:
        """The conversation up to where the model begins to speak, under the template."""
        prompts = prompts_for(tokenizer, self.template)
        if spelled := prompts.spelled(turns):
            log.warning("a prompt spells out %s, a token of the chat template, and is read as that token", spelled)
        return prompts.opening(turns)

    def frame(self, tokenizer: Any) -> Mapping[str, str]:
        """The template, the token that a text begins with, and the one that ends an answer."""
        prompts = prompts_for(tokenizer, self.template)
        begin, stop = prompts.begins, prompts.stop
        if prompts.chat:  # the template writes its own
            written = prompts.opening([Turn("user", "Hi")])[:1]
            begin = tuple(written) if written == [tokenizer.bos_token_id] else ()
        shown = [tokenizer.convert_ids_to_tokens(own[0]) if own else "none" for own in (begin, (stop,))]
        return {"template": prompts.template, "begin token": shown[0], "stop token": shown[1]}

    def asked(self, examples: Examples, index: int) -> tuple[np.ndarray, np.ndarray]:
        """All before the last answer, and the answer without the token that ends it; of a text the first quarter."""
        ids, trained = examples.tokens[index], examples.targets[index]
        start = int(np.flatnonzero(~trained)[-1]) + 1
        if start <= 1:
            start = max(len(ids) // 4, 1)
        return ids[:start], ids[start:-1]

    def stops(self, tokenizer: Any, model: nn.Module) -> frozenset[int]:
        """The end of a turn, the tokenizer's end token, and whatever the checkpoint stops at."""
        from polyrank.hf.generate import saved_stops

        prompts = prompts_for(tokenizer, self.template)
        end = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
        return frozenset({prompts.stop, *end}) | saved_stops(model)

    def chat_template(self, tokenizer: Any) -> str | None:
        """The template of the prompts that were trained, where it is not the tokenizer's own."""
        return prompts_for(tokenizer, self.template).chat_template

    def measured(self, tally: Tally) -> dict[str, float]:
        """Nats per trained token, the exponential of that, and the share of tokens that were the likeliest."""
        loss = tally.sums["nats"] / tally.sums["tokens"]
        try:
            perplexity = math.exp(loss)
        except OverflowError:
            perplexity = math.inf
        accuracy = tally.sums["right"] / tally.sums["tokens"]
        return {"loss": loss, "perplexity": perplexity, "token_accuracy": accuracy}

    def constant(self, examples: Examples, *, learned: Sequence[Examples] = (), words: int = 0) -> dict[str, float]:
        """The unigram of the training answers, each word counted once more: what frequencies alone come to.

        Where no training answers are here, as on a server whose clients are elsewhere, it is that of the test answers.
        """
        tokens = np.concatenate([_answers(own) for own in learned or [examples]])
        asked = _answers(examples)
        size = max(words, int(max(tokens.max(), asked.max())) + 1)
        counts = np.bincount(tokens, minlength=size) + 1
        loss = float(-np.log(counts[asked] / counts.sum()).mean())
        best = int(counts.argmax())
        return {"loss": loss, "perplexity": math.exp(loss), "token_accuracy": float((asked == best).mean())}

    def baseline(self, of: str) -> str:
        """The unigram of those answers."""
        return f"unigram of the {of} answers"


def _noted(rows: Sequence[Row | None]) -> dict[str, np.ndarray]:
    """What of the rows that are kept is likely not meant, as `Encoded` has it."""
    found: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        if row is None:
            continue
        if row.asked < LEAST_ASKED:
            found.setdefault(NO_QUESTION, []).append(i)
        if row.spelled:
            found.setdefault(SPELLED.format(row.spelled), []).append(i)
    return {what: np.asarray(at, dtype=np.int64) for what, at in found.items()}


def _around(prompts: Prompts, dataset: TextDataset) -> int:
    """Tokens around an answer that is not there: of the template, of begin and end."""
    if not dataset.turns:
        return len(prompts.begins) + 1
    try:
        return len(prompts.opening([Turn("user", "")])) + 1
    except DataError:  # it wants more than a user; each row is tried
        return 1


def _answers(examples: Examples) -> np.ndarray:
    """All trained tokens, one after another."""
    pairs = zip(examples.tokens, examples.targets, strict=True)
    return np.concatenate([tokens[trained] for tokens, trained in pairs])


def _trained(targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row and place of the token before each trained one, which is where the model says it, and the trained one."""
    rows, places = (targets[:, 1:] != NOT_TRAINED).nonzero(as_tuple=True)
    return rows, places, targets[rows, places + 1]


def _cross_entropy(logits: Tensor, answers: Tensor) -> Tensor:
    """Nats at each place, in float32, or in float64 where the logits are."""
    import torch

    wide = logits if logits.dtype == torch.float64 else logits.float()
    return torch.nn.functional.cross_entropy(wide, answers, reduction="none")


def _words(model: nn.Module) -> int:
    named: Any = model  # Any: a model's methods have no types
    return max(int(getattr(named.get_output_embeddings(), "out_features", 1)), 1)


def _portions(batch: Batch, words: int) -> list[Batch]:
    """A batch in portions of whole rows: at most so many tokens and logits, but at least a row."""
    count, width = batch.input_ids.shape
    trained = (batch.targets != NOT_TRAINED).sum(dim=1).tolist()
    found, start, held = [], 0, 0
    for row in range(count):
        full = (row + 1 - start) * width > TOKENS_AT_A_TIME or (held + trained[row]) * words > LOGITS_AT_A_TIME
        if row > start and full:
            found.append(slice(start, row))
            start, held = row, 0
        held += trained[row]
    found.append(slice(start, count))
    return [Batch(batch.input_ids[at], batch.attention_mask[at], batch.targets[at]) for at in found]
