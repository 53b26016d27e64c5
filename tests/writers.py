"""A tiny decoder that writes, with a byte-level tokenizer and, if wanted, a chat template; and data for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from polyrank import config as configuration
from polyrank.config import Config, ModelConfig
from polyrank.data.dataset import TextDataset
from polyrank.data.turns import Turn, dumps
from polyrank.hf.files import quiet
from polyrank.hf.load import load_base
from polyrank.hf.resident import ResidentModel
from polyrank.tasks.causal_lm import CausalLM
from polyrank.tasks.task import Examples

TASK = CausalLM()

CHAT = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")
WORDS = 320
POSITIONS = 128
COLOURS = ("red", "green", "blue", "yellow", "white", "black")
THINGS = ("apple", "house", "river", "stone", "cloud", "horse", "train", "table")


SMALL = {
    **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1},
    **{"intermediate_size": 48, "max_position_embeddings": POSITIONS, "tie_word_embeddings": True},
}
ALL_HEADS = {key: value for key, value in SMALL.items() if key != "num_key_value_heads"}
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "llama": SMALL,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_inner": 48, "n_positions": POSITIONS},
    "qwen2": {**SMALL, "vocab_size": WORDS + 8},  # its tokenizer has a padding token of its own
    "qwen3": {**SMALL, "head_dim": 16, "tie_word_embeddings": False},
    "gemma3_text": {
        **SMALL,
        "head_dim": 16,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "mistral": {**SMALL, "sliding_window": 16},
    "phi3": {**SMALL, "pad_token_id": 1},
    "gpt_neox": {**ALL_HEADS, "tie_word_embeddings": False},
    "opt": {
        **{
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "ffn_dim": 48,
            "word_embed_proj_dim": 32,
        },
        **{"max_position_embeddings": POSITIONS, "pad_token_id": 1},
    },
}
"""Architectures that write; tied and untied, with and without a window, with Conv1D, with grouped heads."""


def save(
    folder: Path, architecture: str = "llama", *, chat: bool = True, begins: bool = True, seed: int = 0, **config: Any
) -> Path:
    """Save a random model of two layers and its tokenizer into ``folder``.

    Args:
        folder: made if need be.
        architecture: a key of `CONFIGS`.
        chat: whether the tokenizer has a template.
        begins: whether it puts its begin token before texts.
        seed: of the weights.
        **config: replaces values of the configuration.
    """
    settings = AutoConfig.for_model(
        architecture,
        **{
            **{"vocab_size": WORDS, "bos_token_id": 0, "eos_token_id": 1, "initializer_range": 0.2},
            **CONFIGS[architecture],
            **config,
        },
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


class Study:
    """A `study` with values of its own: `made("data.label=")`."""

    def __init__(self, folder: Path) -> None:
        self.folder = study(folder)

    def __call__(self, *overrides: str) -> Config:
        return configuration.load(self.folder / "study.toml", overrides)


class Checkpoints:
    """Saves each kind of model once and gives its folder; arguments as of `save`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, architecture: str = "llama", **options: Any) -> Path:
        name = "-".join([architecture, *(f"{key}={value}" for key, value in sorted(options.items()))])
        folder = self.root / name.replace("/", "_")
        return folder if folder.exists() else save(folder, architecture, **options)


def dataset(count: int = 48) -> TextDataset:
    """`pairs` as a data set, their kinds as labels."""
    rows = pairs(count)
    texts = tuple(dumps([Turn("user", row["prompt"]), Turn("assistant", row["completion"])]) for row in rows)
    labels = np.array([("what", "say").index(row["kind"]) for row in rows], dtype=np.int64)
    return TextDataset(texts, labels, ("what", "say"), turns=True)


def examples(model: ResidentModel, count: int = 12, limit: int = 64) -> Examples:
    """The pairs in the model's tokens."""
    return TASK.encode(dataset(count), model.base.tokenizer, limit).examples


def resident(folder: Path, **options: Any) -> ResidentModel:
    """A resident model of a checkpoint; ``options`` are the model section's, or dtype and attention."""
    loading = {key: options.pop(key) for key in ("dtype", "attention") if key in options}
    return ResidentModel(
        load_base(ModelConfig(name=str(folder), **{"targets": "all-linear", **options}), (), **loading)
    )
