"""Model, data and training as in any project with PEFT; nothing in here knows of federations of different ranks."""

from __future__ import annotations

from functools import cache

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from polyrank.data import Split, load
from polyrank.quickstart import backbone_path


def make_model(labels: int, rank: int, scale: float) -> PeftModel:
    """The base with LoRA of this rank on query and value; scale is alpha / rank."""
    torch.manual_seed(0)  # the same head and A on all sides
    base = AutoModelForSequenceClassification.from_pretrained(backbone_path(), num_labels=labels, dtype=torch.float32)
    lora = LoraConfig(task_type="SEQ_CLS", r=rank, lora_alpha=round(scale * rank), target_modules=["query", "value"])
    model = get_peft_model(base, lora)
    assert isinstance(model, PeftModel)
    return model


@cache
def data() -> Split:
    """Docstrings of Python's standard library, by topic."""
    return load("stdlib-docs")


def batches(texts: list[str], labels: list[int], size: int = 16) -> list[dict[str, torch.Tensor]]:
    """As the model takes them."""
    tokenizer = AutoTokenizer.from_pretrained(backbone_path())
    made = []
    for i in range(0, len(texts), size):
        tokens = tokenizer(texts[i : i + size], truncation=True, max_length=64, padding=True, return_tensors="pt")
        made.append({**tokens, "labels": torch.tensor(labels[i : i + size])})
    return made


def part(number: int, examples: int) -> list[dict[str, torch.Tensor]]:
    """The training data of one client."""
    train = data().train
    rows = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[number * examples :][:examples]
    return batches([train.texts[i] for i in rows], [int(train.labels[i]) for i in rows])


def fit(model: PeftModel, batches: list[dict[str, torch.Tensor]], lr: float) -> float:
    """One epoch; the mean loss."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    model.train()
    total = 0.0
    for batch in batches:
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total += float(loss.detach())
    return total / len(batches)


@torch.inference_mode()
def accuracy(model: PeftModel, examples: int) -> float:
    """On the first texts of the test set."""
    model.eval()
    test = data().test
    right = 0
    for batch in batches(list(test.texts[:examples]), test.labels[:examples].tolist()):
        right += int((model(**batch).logits.argmax(-1) == batch["labels"]).sum())
    return right / min(examples, len(test))
