"""A tiny decoder that writes, with a byte-level tokenizer and, if wanted, a chat template; and data for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from polyrank.hf.files import quiet

CHAT = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")
WORDS = 320
POSITIONS = 128
COLOURS = ("red", "green", "blue", "yellow", "white", "black")
THINGS = ("apple", "house", "river", "stone", "cloud", "horse", "train", "table")


def save(folder: Path, *, chat: bool = True, begins: bool = True, seed: int = 0, **config: Any) -> Path:
    """Save a random Llama of two layers and its tokenizer into ``folder``.

    Args:
        folder: made if need be.
        chat: whether the tokenizer has a template.
        begins: whether it puts its begin token before texts.
        seed: of the weights.
        **config: replaces values of the configuration.
    """
    ids = {"bos_token_id": 0, "eos_token_id": 1}
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    settings = AutoConfig.for_model(
        "llama",
        **{"vocab_size": WORDS, "intermediate_size": 48, "max_position_embeddings": POSITIONS, **small, **ids},
        **{"initializer_range": 0.2, "tie_word_embeddings": True, **config},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(settings)
    with quiet():
        model.save_pretrained(folder)
    tokenizer(chat=chat, begins=begins).save_pretrained(folder)
    return folder


def tokenizer(*, chat: bool = True, begins: bool = True) -> PreTrainedTokenizerFast:
    """Byte-level BPE of `WORDS` tokens, without a padding token."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    texts = [f"The {thing} is {colour}. What colour is the {thing}? system" for thing in THINGS for colour in COLOURS]
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    if begins:
        from tokenizers.processors import TemplateProcessing

        bpe.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    made = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", additional_special_tokens=list(SPECIAL[2:])
    )
    if chat:
        made.chat_template = CHAT
    return made


def pairs(count: int = 48) -> list[dict[str, str]]:
    """Questions and answers of unequal lengths, of two kinds, in turn of three owners."""
    rows = []
    for i in range(count):
        thing, colour = THINGS[i % len(THINGS)], COLOURS[(i // 2) % len(COLOURS)]
        asked = f"What colour is the {thing}?" if i % 2 else f"Say it: the {thing} of number {i} is {colour}."
        told = f"The {thing} is {colour}." if i % 3 else colour
        rows.append({"prompt": asked, "completion": told, "kind": ("what", "say")[i % 2], "owner": f"site-{i % 3}"})
    return rows


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def study(folder: Path, **saved: Any) -> Path:
    """``folder`` with study.toml, pairs.jsonl and such a model: three owners, two rounds, nothing left to measure."""
    save(folder / "llama", **saved)
    write(folder / "pairs.jsonl", pairs())
    (folder / "study.toml").write_text(
        f"""
        [model]
        name = "{folder / "llama"}"
        [data]
        train = "{folder / "pairs.jsonl"}"
        label = "kind"
        partition = "by-column"
        column = "owner"
        max_tokens = 48
        [federation]
        rounds = 2
        participation = 1.0
        [ranks]
        policy = "fixed"
        levels = [2, 4]
        counts = [2, 1]
        [training]
        lr = 1e-2
        precision = "float32"
        attention = "sdpa"
        engine = "sequential"
        workers = 1
        batch_size = 8
        [evaluation]
        batch_size = 4
        rank_groups = false
        samples = 2
        sample_tokens = 8
        """,
        encoding="utf-8",
    )
    return folder
