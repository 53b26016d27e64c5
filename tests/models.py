"""Tiny random checkpoints of several architectures, and a toy task: what tests of models and training stand on.

A checkpoint is the bare ``AutoModel``, as most are on the Hub, so that a classification head on it is new.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from polyrank.config import ModelConfig
from polyrank.core.adapter import Adapter, Factors
from polyrank.data.dataset import TextDataset
from polyrank.hf.files import quiet
from polyrank.hf.load import load_base
from polyrank.hf.resident import ResidentModel
from polyrank.tasks.classification import Classification
from polyrank.tasks.task import Batch, Examples

TASK = Classification()

PETS = ("cat", "dog", "hen", "pony", "goat", "hamster")
FRUIT = ("apple", "pear", "plum", "cherry", "melon", "fig")
STARS = ("sun", "moon", "comet", "planet", "galaxy", "nova")
FILLERS = ("the", "a", "my", "our", "sees", "likes", "and", "near", "big", "small", "old", "new")
TOPICS = {"pets": PETS, "fruit": FRUIT, "stars": STARS}

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (*SPECIAL, *FILLERS, *PETS, *FRUIT, *STARS)
POSITIONS = 40

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
ENCODER = {**SMALL, "max_position_embeddings": POSITIONS, "pad_token_id": 0}

CONFIGS: dict[str, dict[str, Any]] = {
    "bert": ENCODER,
    "distilbert": {
        "dim": 16,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 24,
        "max_position_embeddings": POSITIONS,
        "pad_token_id": 0,
        "seq_classif_dropout": 0.0,
    },
    "albert": {**ENCODER, "embedding_size": 8, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "roberta": {**ENCODER, "max_position_embeddings": POSITIONS + 1},
    "modernbert": {
        **ENCODER,
        **{"cls_token_id": 2, "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3},
        **{"global_attn_every_n_layers": 2, "local_attention": 8},
    },
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_inner": 24, "n_positions": POSITIONS, "resid_pdrop": 0.0},
    "llama": {**SMALL, "num_key_value_heads": 1, "max_position_embeddings": POSITIONS},
    "bart": {
        **{"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24},
        **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": POSITIONS},
        **{"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3, "dropout": 0.0},
    },
    "m2m_100": {
        **{"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24},
        **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": POSITIONS},
        **{"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3},
    },
    "t5": {
        **{"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0},
        **{"pad_token_id": 0, "eos_token_id": 3, "decoder_start_token_id": 0},
    },
    "deberta-v2": {**ENCODER, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
}
ENCODERS = ("bert", "distilbert", "albert", "roberta", "modernbert")
DECODERS = ("gpt2", "llama")
ENDS = ("bart", "m2m_100", "t5")
ARCHITECTURES = (*ENCODERS, *DECODERS)
"""What is tested everywhere. DeBERTa is there for what it lacks: scaled dot product attention; BART and T5 for heads
that look for the end token, which they need exactly once in a text."""

SPREAD = 0.3
"""Standard deviation of the weights: large, so that every part of a tiny model shows in its logits."""


def save(
    folder: Path,
    architecture: str,
    *,
    pooler: bool = True,
    classifier: int | None = None,
    sentence_encoder: bool = False,
    tokenizer_limit: int | None = POSITIONS,
    seed: int = 0,
    **config: Any,
) -> Path:
    """Save a random model with its tokenizer into ``folder``.

    Args:
        folder: made if need be.
        architecture: a key of ``CONFIGS``.
        pooler: whether a class with a pooler saves it.
        classifier: save the whole classifier, of so many labels, instead of the bare model.
        sentence_encoder: write a ``modules.json`` as sentence-transformers does.
        tokenizer_limit: the tokenizer's ``model_max_length``, if it has one.
        seed: of the weights.
        **config: replaces values of the architecture's tiny configuration.
    """
    ids = {"bos_token_id": 2, "eos_token_id": 3} if architecture in DECODERS else {}
    settings = transformers.AutoConfig.for_model(
        architecture, vocab_size=len(WORDS), initializer_range=SPREAD, **{**CONFIGS[architecture], **ids, **config}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if classifier is not None:
            settings.num_labels = classifier
            model = transformers.AutoModelForSequenceClassification.from_config(settings)
        elif pooler or architecture not in ("bert", "albert", "roberta"):
            model = transformers.AutoModel.from_config(settings)
        else:
            model = transformers.AutoModel.from_config(settings, add_pooling_layer=False)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # zero at birth, so that a bias that got lost would go unseen
                torch.nn.init.normal_(parameter, std=SPREAD)
    with quiet():
        model.save_pretrained(folder)
    save_tokenizer(folder, decoder=architecture in DECODERS, limit=tokenizer_limit, ends=architecture in ENDS)
    if sentence_encoder:
        modules = (
            '[{"type": "sentence_transformers.models.Transformer"}, {"type": "sentence_transformers.models.Pooling"}]'
        )
        (folder / "modules.json").write_text(modules, encoding="utf-8")
    return folder


def save_tokenizer(folder: Path, *, decoder: bool, limit: int | None = POSITIONS, ends: bool = False) -> None:
    """A word-level tokenizer; that of a decoder has no padding token and adds nothing to a text, like GPT-2's.

    With ``ends`` the separator is the end token too, as RoBERTa, BART and T5 have it.
    """
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.normalizer = Lowercase()
    words.pre_tokenizer = Whitespace()
    tokens = {"unk_token": "[UNK]", "bos_token": "[CLS]", "eos_token": "[SEP]"}
    if not decoder:
        words.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
        tokens = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
        tokens |= {"eos_token": "[SEP]"} if ends else {}
    limits = {} if limit is None else {"model_max_length": limit}
    PreTrainedTokenizerFast(tokenizer_object=words, **tokens, **limits).save_pretrained(folder)


def toy(examples: int, classes: int = 2, seed: int = 0) -> TextDataset:
    """Texts of 3 to 12 words, some of them of one topic, which is the label: learnable from single words."""
    random = np.random.default_rng(seed)
    names = tuple(TOPICS)[:classes]
    labels = random.integers(classes, size=examples)
    texts = []
    for label in labels:
        fillers = random.choice(FILLERS, size=random.integers(2, 10))
        topic = random.choice(TOPICS[names[label]], size=random.integers(1, 3))
        texts.append(" ".join(random.permutation([*fillers, *topic])))
    return TextDataset(tuple(texts), labels.astype(np.int64), names)


class Checkpoints:
    """Saves each kind of checkpoint once and gives its folder: what session-wide fixtures hand out."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, architecture: str, **options: Any) -> Path:
        """As `save`."""
        name = "-".join([architecture, *(f"{key}={value}" for key, value in sorted(options.items()))])
        folder = self.root / name.replace("/", "_")
        return folder if folder.exists() else save(folder, architecture, **options)


LABELS = ("pets", "fruit")


def resident(folder: Path, *, labels: tuple[str, ...] = LABELS, seed: int = 0, **options: Any) -> ResidentModel:
    """A resident model of a checkpoint; ``options`` are the model section's, or dtype, attention and device."""
    loading = {key: options.pop(key) for key in ("dtype", "attention") if key in options}
    device = torch.device(options.pop("device", "cpu"))
    return ResidentModel(load_base(ModelConfig(name=str(folder), **options), labels, seed=seed, **loading), device)


def random_adapter(model: ResidentModel, seed: int = 0, *, rank: int = 3, uneven: bool = True) -> Adapter:
    """Factors that show: no zero anywhere; if uneven, ranks 1 .. ``rank`` and scales of 0.5 to 2 go around."""
    generator = torch.Generator().manual_seed(seed)
    modules = {}
    for i, (name, (d_out, d_in)) in enumerate(model.shapes.items()):
        own, scale = (1 + (i + seed) % rank, 0.5 * (1 + (i + seed) % 4)) if uneven else (rank, 2.0)
        a = torch.randn(own, d_in, generator=generator) / d_in**0.5
        modules[name] = Factors(a, torch.randn(d_out, own, generator=generator) / own**0.5, scale)
    dense = model.initial(1, 1.0, 0).dense
    return Adapter(modules, {name: torch.randn(value.shape, generator=generator) for name, value in dense.items()})


def examples(model: ResidentModel, count: int = 6, seed: int = 0, classes: int = 2) -> Examples:
    """The toy task in the model's tokens."""
    return TASK.encode(toy(count, classes, seed), model.base.tokenizer, POSITIONS).examples


def batch(model: ResidentModel, count: int = 6, seed: int = 0) -> Batch:
    """All of a few examples, of several lengths."""
    chosen = examples(model, count, seed)
    return TASK.collate([(chosen, range(count))], model.device)


@torch.no_grad()
def logits(model: torch.nn.Module, inputs: Batch) -> torch.Tensor:
    """In evaluation mode."""
    model.eval()
    return model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask).logits
