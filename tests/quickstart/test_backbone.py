import pytest
import torch
from safetensors.torch import load_file
from tools.probes import embed
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from polyrank.quickstart import backbone_path

TRIPLES = [
    (
        "Open a TCP connection to the host and port and return a socket.",
        "Send bytes to the remote server over the network.",
        "Return the median of the numeric data.",
    ),
    (
        "Create a frame widget with the parent window.",
        "Draw a button on the canvas.",
        "Parse the header of an email message.",
    ),
    (
        "Acquire a lock, blocking until the other thread releases it.",
        "Wait until all worker threads have finished.",
        "Extract a member from the zip archive.",
    ),
    (
        "Add a file to the compressed archive.",
        "Read bytes from the gzip file.",
        "The month and the weekday of the calendar.",
    ),
    ("The football team won the match.", "He was a player of the national league.", "The company sells software."),
]


@pytest.fixture(scope="module")
def encoder():
    model = AutoModel.from_pretrained(backbone_path(), dtype=torch.float32, local_files_only=True)
    return model, AutoTokenizer.from_pretrained(backbone_path(), local_files_only=True)


def test_folder_is_small_and_complete():
    sizes = {path.name: path.stat().st_size for path in backbone_path().iterdir()}
    assert set(sizes) == {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert sum(sizes.values()) <= 5_000_000


def test_weights_are_bfloat16_and_finite():
    weights = load_file(backbone_path() / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    assert all(weight.isfinite().all() for weight in weights.values())
    assert 1_500_000 <= sum(weight.numel() for weight in weights.values()) <= 2_000_000


def test_tokenizer_and_model_agree(encoder):
    model, tokenizer = encoder
    assert model.config.vocab_size == len(tokenizer)
    assert tokenizer.model_max_length == model.config.max_position_embeddings >= 128
    assert tokenizer.pad_token_id == model.config.pad_token_id
    assert len(tokenizer("word " * 500, truncation=True)["input_ids"]) == tokenizer.model_max_length
    assert tokenizer.tokenize("Return the NUMBER.") == ["return", "the", "number", "."]


def test_has_no_dropout(encoder):
    config = encoder[0].config
    assert config.hidden_dropout_prob == config.attention_probs_dropout_prob == 0.0


def test_every_weight_is_used_and_only_the_head_is_new():
    _, info = AutoModelForSequenceClassification.from_pretrained(
        backbone_path(), num_labels=9, output_loading_info=True, local_files_only=True
    )
    assert not info["unexpected_keys"]
    assert all(key.startswith(("classifier.", "bert.pooler.")) for key in info["missing_keys"])


@pytest.mark.parametrize(("anchor", "near", "far"), TRIPLES)
def test_related_texts_are_nearer_than_unrelated_ones(encoder, anchor, near, far):
    a, b, c = embed(*encoder, [anchor, near, far])
    assert a @ b > a @ c


def test_padding_does_not_change_an_embedding(encoder):
    text = "Return the number of items in the queue."
    alone = embed(*encoder, [text])[0]
    padded = embed(*encoder, [text, "word " * 100])[0]
    torch.testing.assert_close(alone, padded, atol=1e-5, rtol=0)
