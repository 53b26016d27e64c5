import json
import re

import pytest
import torch
from safetensors.torch import load_file
from tools.docstring_probe import answered, measure, unigram
from tools.pretrain import END, PAD, Recipe
from transformers import AutoModelForCausalLM, AutoTokenizer

from polyrank.quickstart import decoder_path
from polyrank.quickstart.stdlib_signatures import split

FILES = ("README.md", "config.json", "generation_config.json", "model.safetensors")
CARD = " ".join((decoder_path() / "README.md").read_text(encoding="utf-8").split()).replace("\\|", "|")


@pytest.fixture(scope="module")
def decoder():
    model = AutoModelForCausalLM.from_pretrained(decoder_path(), dtype=torch.float32, local_files_only=True)
    return model, AutoTokenizer.from_pretrained(decoder_path(), local_files_only=True)


def test_folder_is_small_and_complete():
    sizes = {path.name: path.stat().st_size for path in decoder_path().iterdir()}
    assert set(sizes) == {*FILES, "tokenizer.json", "tokenizer_config.json"}
    assert sum(sizes.values()) <= 5_000_000


def test_weights_are_bfloat16_and_finite_and_all_used():
    weights = load_file(decoder_path() / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    assert all(weight.isfinite().all() for weight in weights.values())
    _, info = AutoModelForCausalLM.from_pretrained(decoder_path(), output_loading_info=True, local_files_only=True)
    assert not info["unexpected_keys"]
    assert not info["missing_keys"]


def test_it_was_made_by_the_recipe(decoder):
    config, recipe = decoder[0].config, Recipe()
    found = (config.vocab_size, config.hidden_size, config.num_hidden_layers, config.num_attention_heads)
    assert found == (recipe.vocabulary, recipe.hidden, recipe.layers, recipe.heads)
    found = (config.num_key_value_heads, config.intermediate_size, config.max_position_embeddings)
    assert found == (recipe.key_value_heads, recipe.feed_forward, recipe.positions)
    assert config.tie_word_embeddings
    assert config.attention_dropout == 0.0


def test_tokenizer_and_model_agree(decoder):
    model, tokenizer = decoder
    assert tokenizer.is_fast
    assert len(tokenizer) == model.config.vocab_size == 2048
    assert tokenizer.model_max_length == model.config.max_position_embeddings
    assert (tokenizer.pad_token, tokenizer.eos_token, tokenizer.bos_token) == (PAD, END, None)
    assert tokenizer.pad_token_id == model.config.pad_token_id != tokenizer.eos_token_id
    assert model.config.eos_token_id == model.generation_config.eos_token_id == tokenizer.eos_token_id


def test_tokenizer_class_is_known_to_versions_4_and_5_of_transformers():
    said = json.loads((decoder_path() / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert said["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_every_text_comes_back_and_no_token_is_added(decoder):
    tokenizer = decoder[1]
    for text in ('# m\nclass A:\n    def f(self):\n        """', "Ünïcode 漢字\t\n  x", " .", ""):
        ids = tokenizer(text).input_ids
        assert tokenizer.decode(ids) == text
        assert not set(ids) & set(tokenizer.all_special_ids)


def test_a_prompt_and_its_completion_meet_between_two_tokens(decoder):
    """For all but docstrings that begin with a sign; those whose halves are tokenised together would hide a quote."""
    tokenizer = decoder[1]
    for pair in split()[1][::7]:
        if pair.completion[0].isalnum():
            apart = tokenizer(pair.prompt).input_ids + tokenizer(pair.completion).input_ids
            assert tokenizer(pair.prompt + pair.completion).input_ids == apart


def test_it_knows_more_about_docstrings_than_their_token_frequencies_do(decoder):
    """It has not read any, so there is much to learn, and it has read the words they consist of."""
    model, tokenizer = decoder
    train, test = (answered(tokenizer, side[::20]) for side in split())
    found = measure(model, test)
    assert 20 < found.perplexity < 0.5 * unigram(train, test, len(tokenizer)).perplexity


def test_it_knows_where_a_document_may_end(decoder):
    model, tokenizer = decoder

    def of_the_end(text: str) -> float:
        logits = model(**tokenizer(text, return_tensors="pt")).logits[0, -1]
        return logits.softmax(-1)[tokenizer.eos_token_id].item()

    answer = "Name a fruit.\n\nAn apple is a"
    assert of_the_end(f"{answer} fruit.") > 0.05 > 100 * of_the_end(answer)


def test_the_card_tells_the_facts(decoder):
    model, tokenizer = decoder
    parameters = re.search(r"\| parameters \| ([\d,]+)", CARD)
    assert parameters is not None
    assert int(parameters[1].replace(",", "")) == model.num_parameters()
    for fact in (f"{len(tokenizer):,} entries", f"{model.config.max_position_embeddings} positions", PAD, END):
        assert fact in CARD
    megabytes = (decoder_path() / "model.safetensors").stat().st_size / 1e6
    assert f"{megabytes:.1f} MB in bfloat16" in CARD
    for source in ("PSF-2.0", "CC BY-SA 3.0", "databricks-dolly-15k"):
        assert source in CARD
