"""The job as a user of plain PyTorch and PEFT writes it; Flower's and pfl's side share it.

A job is a PolyRank configuration. Data, partition, tokens, base model and head come from the functions that PolyRank
itself uses, so both sides hold the same. The training loop is PyTorch's ordinary one: float32, PyTorch's default
attention, a shuffling `DataLoader` whose batches are padded to their longest text, `AdamW` with its defaults.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from polyrank import data
from polyrank.config import Config, load
from polyrank.core.seeds import derive, numpy_generator, torch_generator
from polyrank.core.shares import part_of
from polyrank.hf.load import load_base, load_tokenizer
from polyrank.tasks.classification import Classification
from polyrank.tasks.task import Examples

Batch = tuple[Tensor, Tensor, Tensor]
"""Token ids, attention mask and labels."""


@dataclass(frozen=True, eq=False)
class Work:
    """What stays the same over a run.

    Args:
        config: of the job.
        clients: the examples of each, in the order of the clients' names.
        test: held-out examples.
        labels: names of the classes.
    """

    config: Config
    clients: tuple[Examples, ...]
    test: Examples
    labels: tuple[str, ...]

    def seed(self, round_number: int, client: int) -> int:
        """Of what a client draws in a round."""
        return derive(self.config.federation.seed, "training", round_number, client)


@functools.cache
def work(path: str) -> Work:
    """The job in a TOML file; read and tokenised once per process."""
    config = load(Path(path))
    options, seed = config.data, config.federation.seed
    split = data.load(
        options.train,
        options.test,
        text=options.text,
        label=options.label,
        test_share=options.test_share,
        seed=seed,
        limit_train=options.limit_train,
        limit_test=options.limit_test,
    )
    partition = data.partition(
        split.train, options.partition, config.federation.clients, seed=seed, options={"size": options.size}
    )
    tokenizer = load_tokenizer(config.model)
    train, test = (
        Classification().encode(part, tokenizer, options.max_tokens).examples for part in (split.train, split.test)
    )
    clients = tuple(train.subset(partition.examples[name]) for name in sorted(partition.examples))
    return Work(config, clients, test, split.train.label_names)


def cohort_size(config: Config) -> int:
    """Clients per round."""
    return max(1, part_of(config.federation.clients or 1, config.federation.participation))


def build(path: str) -> PeftModel:
    """The base model from its folder, with LoRA and a head to be trained."""
    job = work(path)
    config, seed = job.config, job.config.federation.seed
    base = load_base(config.model, job.labels, seed=seed)
    rank = config.ranks.levels[-1]
    lora = LoraConfig(
        r=rank,
        lora_alpha=round(config.ranks.alpha * rank),
        lora_dropout=config.model.dropout,
        target_modules=list(config.model.targets),
        modules_to_save=list(base.head_modules),
    )
    model = get_peft_model(base.model, lora)
    for name, module in base.model.named_modules():  # A as PolyRank draws it: accuracy depends on it by points
        if isinstance(module, LoraLayer):
            (adapter,) = module.lora_A.values()
            generator = torch_generator(seed, "adapter", name)
            nn.init.kaiming_uniform_(adapter.weight, a=5**0.5, generator=generator)
    return model


def collate(examples: Examples, indices: Sequence[int]) -> Batch:
    """The chosen examples as one batch, padded to the longest."""
    tokens = [torch.from_numpy(examples.tokens[i]) for i in indices]
    ids = pad_sequence(tokens, batch_first=True, padding_value=examples.pad_id)
    mask = pad_sequence([torch.ones_like(t) for t in tokens], batch_first=True)
    return ids, mask, torch.from_numpy(examples.targets[list(indices)])


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross entropy of a batch."""
    ids, mask, labels = batch
    logits = model(input_ids=ids, attention_mask=mask).logits
    return torch.nn.functional.cross_entropy(logits, labels)


def fit(model: nn.Module, examples: Examples, config: Config, seed: int) -> float:
    """One client's local training; the mean loss of its steps."""
    options = config.training
    torch.manual_seed(seed)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=options.lr, weight_decay=options.weight_decay)
    batches: DataLoader[int] = DataLoader(
        range(len(examples)),  # type: ignore[arg-type]  # anything with a length and items will do
        options.batch_size,
        shuffle=True,
        collate_fn=functools.partial(collate, examples),
    )
    total, steps = 0.0, 0
    model.train()
    for _ in range(options.epochs):
        for batch in batches:
            loss = loss_of(model, batch)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            total, steps = total + loss.item(), steps + 1
    return total / steps


@torch.inference_mode()
def accuracy(model: nn.Module, job: Work) -> float:
    """Share of right answers on the test set."""
    model.eval()
    order, size = range(len(job.test)), job.config.evaluation.batch_size
    batches = (collate(job.test, order[start : start + size]) for start in range(0, len(order), size))
    logits = [model(input_ids=ids, attention_mask=mask).logits for ids, mask, _ in batches]
    predicted = torch.cat(logits).argmax(dim=-1).numpy()
    return float((predicted == job.test.targets).mean())


def cohort_order(job: Work) -> list[int]:
    """The clients in a seeded order, for a framework that is told whom to take."""
    order = numpy_generator(job.config.federation.seed, "order").permutation(len(job.clients))
    return [int(client) for client in order]
