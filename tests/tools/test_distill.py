import functools
import json
from dataclasses import replace

import pytest
import torch
from tools.distill import CHUNK_WORDS, Recipe, batches, chunks, distillation_loss, gather
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from polyrank.core.errors import DataError
from polyrank.quickstart.stdlib_docs import split
from tools import distill

TINY = Recipe(vocabulary=300, hidden=16, layers=1, heads=2, feed_forward=32, positions=32, epochs=1, batch=8)


@functools.cache  # read when a test asks, and not when tests are collected
def sample() -> list[str]:
    return [document.text for document in split()[0][:16]]


@pytest.fixture
def files(tmp_path):
    dbpedia, dolly = tmp_path / "dbpedia.csv", tmp_path / "dolly.jsonl"
    dbpedia.write_text('label,text\nVillage,"A village in the hills, by a river."\n')
    record = {"instruction": "Which river?", "context": "", "response": "The long one. " * 50}
    dolly.write_text(json.dumps(record) + "\n")
    return dbpedia, dolly


@pytest.fixture
def teacher(tmp_path):
    """A random BERT of hidden size 24: wider than the student, as a teacher is."""
    tokenizer = distill.train_tokenizer(sample(), TINY)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


def test_gather_reads_all_three_sources_but_no_held_out_docstring(files):
    texts = gather(*files)
    assert "A village in the hills, by a river." in texts
    assert "Which river?" in texts
    assert len(set(texts)) == len(texts)
    assert max(len(text.split()) for text in texts) <= CHUNK_WORDS
    train, test = ({piece for document in side for piece in chunks(document.text)} for side in split())
    assert train <= set(texts)
    assert set(texts).isdisjoint(test - train)


def test_gather_says_which_file_is_wrong(files):
    files[1].write_text("{not json\n")
    with pytest.raises(DataError, match=r"dolly\.jsonl: expected JSON lines"):
        gather(*files)


def test_tokenizer_knows_the_characters_of_its_texts():
    tokenizer = distill.train_tokenizer(sample(), TINY)
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3, 4]) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert len(tokenizer) == 300
    assert all(tokenizer.unk_token_id not in tokenizer(text)["input_ids"] for text in sample())


def test_teacher_is_asked_once(teacher, tmp_path, monkeypatch):
    first = distill.teacher_embeddings(teacher, sample(), tmp_path)
    monkeypatch.setattr(distill, "embed", None)
    torch.testing.assert_close(distill.teacher_embeddings(teacher, sample(), tmp_path), first, atol=1e-3, rtol=0)


def test_loss_of_a_perfect_student_is_zero():
    embeddings = torch.nn.functional.normalize(torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), dim=-1)
    assert distillation_loss(embeddings, embeddings, 20.0).abs() < 1e-5


def test_loss_of_opposite_embeddings_is_two():
    """The similarities of -t are those of t, so the divergence is 0 and 1 - cos = 2 remains."""
    embeddings = torch.nn.functional.normalize(torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), dim=-1)
    torch.testing.assert_close(distillation_loss(-embeddings, embeddings, 20.0), torch.tensor(2.0))


def test_batches_hold_every_row_once():
    rows = list(batches([i % 7 for i in range(45)], 8, torch.Generator().manual_seed(0)))
    assert sorted(i for row in rows for i in row) == list(range(45))
    assert max(map(len, rows)) == 8


def test_a_tiny_distillation_writes_a_model_that_loads(teacher, tmp_path):
    distill.distill(teacher, sample(), tmp_path / "student", TINY, tmp_path)
    model = AutoModel.from_pretrained(tmp_path / "student", local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "student", local_files_only=True)
    assert model.dtype == torch.bfloat16
    assert tokenizer.model_max_length == 32
    assert model(**tokenizer("Return a list.", return_tensors="pt")).last_hidden_state.shape[-1] == 16


def test_training_comes_nearer_to_the_teacher(teacher, tmp_path):
    """More epochs on the same texts, a lower loss: the student learns what the teacher says."""

    def loss_after(epochs: int) -> float:
        recipe = replace(TINY, epochs=epochs)
        tokenizer = distill.train_tokenizer(sample(), recipe)
        pieces = torch.randn(len(tokenizer), 24, generator=torch.Generator().manual_seed(0))
        targets = distill.teacher_embeddings(teacher, sample(), tmp_path)
        return distill.train(distill.new_student(tokenizer, pieces, recipe), tokenizer, sample(), targets, recipe)

    assert loss_after(20) < loss_after(1)
