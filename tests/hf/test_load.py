from __future__ import annotations

import itertools
import json
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub import constants
from safetensors.torch import load_file

from polyrank.config import ModelConfig
from polyrank.core.errors import ModelError
from polyrank.hf import files
from polyrank.hf.load import BaseModel, checkpoint_classes, load_base, load_tokenizer
from polyrank.hf.mean_pool import MeanPoolClassifier
from tests import models
from tests.models import ARCHITECTURES, DECODERS, LABELS, Checkpoints
from tests.versions import as_tested

NEW_HEADS = {
    "bert": ("classifier",),
    "distilbert": ("classifier", "pre_classifier"),
    "albert": ("classifier",),
    "roberta": ("classifier",),
    "modernbert": ("classifier", "head"),
    "gpt2": ("score",),
    "llama": ("score",),
    "deberta-v2": ("classifier", "pooler"),
}


def load(folder: Path, *, labels: tuple[str, ...] = LABELS, seed: int = 0, **section: Any) -> BaseModel:
    return load_base(ModelConfig(name=str(folder), **section), labels, seed=seed)


def head_of(base: BaseModel) -> dict[str, torch.Tensor]:
    return {
        f"{module}.{name}": tensor.clone()
        for module in base.head_modules
        for name, tensor in base.model.get_submodule(module).state_dict().items()
    }


@pytest.mark.parametrize("architecture", NEW_HEADS)
def test_head_is_what_the_checkpoint_leaves_new(checkpoint: Checkpoints, architecture: str):
    """The checkpoint is the bare model, so new is every parameter of the classifier but the saved ones."""
    folder = checkpoint(architecture)
    base = load(folder, head="model")
    assert base.head_modules == NEW_HEADS[architecture]
    saved = load_file(folder / "model.safetensors").keys()
    prefix = base.model.base_model_prefix
    new = {name for name, _ in base.model.named_parameters() if name.removeprefix(f"{prefix}.") not in saved}
    assert head_of(base).keys() == new
    assert not any(parameter.requires_grad for parameter in base.model.parameters())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_backbone_is_the_checkpoint(checkpoint: Checkpoints, architecture: str):
    saved = load_file(checkpoint(architecture) / "model.safetensors")
    for head, prefix in (("model", None), ("mean-pool", "encoder")):
        base = load(checkpoint(architecture), head=head)
        loaded = base.model.get_submodule(prefix or base.model.base_model_prefix).state_dict()
        assert loaded
        assert all(torch.equal(tensor, saved[name]) for name, tensor in loaded.items())


@pytest.mark.parametrize(
    ("architecture", "options", "head", "modules"),
    [
        ("bert", {}, "model", ("classifier",)),
        ("bert", {"pooler": False}, "mean-pool", ("classifier",)),
        ("albert", {"pooler": False}, "mean-pool", ("classifier",)),
        ("roberta", {"pooler": False}, "model", ("classifier",)),  # its own head takes the first token, not a pooler
        ("distilbert", {}, "model", ("classifier", "pre_classifier")),
        ("llama", {}, "model", ("score",)),
        ("bert", {"sentence_encoder": True}, "mean-pool", ("classifier",)),
        ("distilbert", {"sentence_encoder": True}, "mean-pool", ("classifier",)),
        ("bert", {"pooler": False, "classifier": 2}, "model", ("classifier",)),
    ],
)
def test_auto_head(
    checkpoint: Checkpoints, architecture: str, options: dict[str, Any], head: str, modules: tuple[str, ...]
):
    base = load(checkpoint(architecture, **options))
    assert base.config.head == head
    assert base.head_modules == modules
    assert isinstance(base.model, MeanPoolClassifier) == (head == "mean-pool")


def test_a_new_pooler_is_trained_where_the_models_own_head_is_asked_for(checkpoint: Checkpoints):
    base = load(checkpoint("bert", pooler=False), head="model")
    assert base.head_modules == ("bert.pooler", "classifier")


def test_a_modules_file_without_pooling_says_nothing(checkpoint: Checkpoints, tmp_path: Path):
    folder = shutil.copytree(checkpoint("bert"), tmp_path / "bert")
    (folder / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Transformer"}]))
    assert load(folder).config.head == "model"


def test_mean_pool_by_hand(checkpoint: Checkpoints):
    """The mean over the tokens that are not padding, times the classifier: the same for each text on its own."""
    base = load(checkpoint("bert"), head="mean-pool")
    assert not any("pooler" in name for name, _ in base.model.named_parameters())
    ids = base.tokenizer(["the cat", "a big old dog near the sun"])["input_ids"]
    inputs = base.tokenizer.pad({"input_ids": ids}, return_tensors="pt")
    with torch.no_grad():
        together = base.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        for text, logits in zip(ids, together, strict=True):
            hidden = base.model.encoder(input_ids=torch.tensor([text])).last_hidden_state[0]
            torch.testing.assert_close(base.model.classifier(hidden.mean(dim=0)), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "modules"),
    [("bert", ("classifier",)), ("roberta", ("classifier.out_proj",)), ("distilbert", ("classifier",))],
)
def test_a_saved_classifier_of_other_labels_is_new(
    checkpoint: Checkpoints, architecture: str, modules: tuple[str, ...]
):
    """Three saved labels, two asked for: the last layer cannot be kept; what lies before it is."""
    base = load(checkpoint(architecture, classifier=3))
    assert base.head_modules == modules
    assert all(tensor.shape[0] == 2 for tensor in head_of(base).values())


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert", "gpt2"])
def test_a_saved_classifier_of_these_labels_is_kept_and_trained(checkpoint: Checkpoints, architecture: str):
    folder = named(checkpoint, architecture, "pets", "fruit")
    base = load(folder)
    assert base.head_modules == NEW_HEADS[architecture]
    saved = load_file(folder / "model.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in head_of(base).items())
    assert not base.note


def named(checkpoint: Checkpoints, architecture: str, *classes: str) -> Path:
    """A checkpoint with a trained head whose rows are these classes."""
    numbers = {name: i for i, name in enumerate(classes)}
    folder: Path = checkpoint(
        architecture, classifier=len(classes), id2label=dict(enumerate(classes)), label2id=numbers, pad_token_id=0
    )
    return folder


@pytest.mark.parametrize("architecture", [*NEW_HEADS, "bart", "t5"])
def test_rows_of_a_saved_head_follow_their_names(checkpoint: Checkpoints, architecture: str):
    """Whatever order we count the classes in, a class has the logit that plain transformers gives it."""
    folder = named(checkpoint, architecture, "stars", "pets", "fruit")
    with files.quiet():
        plain = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    last = 4 if architecture in DECODERS else 3  # the end token is a decoder's padding
    ids = torch.tensor([[2, 8, 17, 9, last], [2, 18, 23, 5, last]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        expected = dict(zip(("stars", "pets", "fruit"), plain(**inputs).logits.T, strict=True))
        for labels in itertools.permutations(expected):
            base = load(folder, labels=labels, head="model")
            assert base.model.config.id2label == dict(enumerate(labels))
            assert not base.note
            for label, column in zip(labels, base.model(**inputs).logits.T, strict=True):
                torch.testing.assert_close(column, expected[label])


@pytest.mark.parametrize(
    ("classes", "labels", "said"),
    [
        (("good", "bad"), ("neg", "pos"), r"trained for good, bad, and the data have neg, pos: .* anew; .*id2label"),
        (("LABEL_0", "LABEL_1"), ("neg", "pos"), r"LABEL_0, LABEL_1, and .*: the head starts anew; .*id2label"),
        (("neg", "pos", "mixed"), ("neg", "pos"), r"the head starts anew; to keep it, give data.labels all of"),
        (("neg", "pos"), ("neg", "pos", "mixed"), r"the head starts anew$"),
        (("good", "bad"), ("0", "1"), r"trained for good, bad, and the data have 0, 1: the head starts anew"),
    ],
)
@pytest.mark.parametrize(
    ("architecture", "modules"),
    [("bert", ("classifier",)), ("roberta", ("classifier.out_proj",)), ("gpt2", ("score",))],
)
def test_a_head_of_other_classes_starts_anew_and_says_so(  # noqa: PLR0917  # pytest's way to pass parameters
    checkpoint: Checkpoints,
    architecture: str,
    modules: tuple[str, ...],
    classes: tuple[str, ...],
    labels: tuple[str, ...],
    said: str,
):
    """Only its last layer does, from the seed; what lies before it is kept."""
    folder = named(checkpoint, architecture, *classes)
    base = load(folder, labels=labels, seed=3)
    assert re.search(said, base.note)
    assert base.head_modules == modules
    saved = load_file(folder / "model.safetensors")
    for name, tensor in head_of(base).items():
        assert tensor.shape[0] == len(labels)
        assert tensor.shape != saved[name].shape or not torch.equal(tensor, saved[name])
        assert name.endswith("bias") or 0 < tensor.std() < 1
    again, other = head_of(load(folder, labels=labels, seed=3)), head_of(load(folder, labels=labels, seed=4))
    assert all(torch.equal(tensor, again[name]) for name, tensor in head_of(base).items())
    assert any(not torch.equal(tensor, other[name]) for name, tensor in head_of(base).items())
    kept = [name for name in saved if not name.startswith(modules)]
    assert all(torch.equal(base.model.state_dict()[name], saved[name]) for name in kept)


def test_classes_that_count_from_0_are_numbers(checkpoint: Checkpoints):
    """A head without names of its own fits labels 0, 1, 2, which say the same."""
    folder = checkpoint("bert", classifier=3)
    assert not load(folder, labels=("0", "1", "2")).note
    assert load(folder, labels=("1", "2", "3")).note


def test_a_user_names_the_classes_of_a_checkpoint(checkpoint: Checkpoints):
    folder = checkpoint("bert", classifier=2)
    base = load(folder, config={"id2label": {"0": "fruit", "1": "pets"}})
    assert not base.note
    saved = load_file(folder / "model.safetensors")["classifier.weight"]
    assert torch.equal(base.model.get_parameter("classifier.weight"), saved[[1, 0]])


def test_the_head_of_another_task_is_none_of_ours(checkpoint: Checkpoints, tmp_path: Path):
    """A model that labels tokens has tensors of the same names; its classes are no classes of texts."""
    settings = transformers.AutoConfig.from_pretrained(checkpoint("bert"))
    settings.num_labels = 2
    transformers.BertForTokenClassification(settings).save_pretrained(tmp_path)
    models.save_tokenizer(tmp_path, decoder=False)
    base = load(tmp_path, labels=("0", "1"), head="model")
    saved = load_file(tmp_path / "model.safetensors")["classifier.weight"]
    assert not torch.equal(base.model.get_parameter("classifier.weight"), saved)
    assert base.head_modules == ("bert.pooler", "classifier")  # before, the classifier was kept, and frozen
    assert not base.note


def test_classes_of_a_checkpoint(checkpoint: Checkpoints):
    def classes(folder: Path) -> tuple[str, ...]:
        return checkpoint_classes(ModelConfig(name=str(folder)))

    assert classes(named(checkpoint, "distilbert", "pos", "neg")) == ("pos", "neg")
    assert classes(checkpoint("distilbert")) == ()


@pytest.mark.parametrize("head", ["model", "mean-pool"])
@pytest.mark.parametrize("architecture", ["distilbert", "gpt2"])
def test_a_new_head_comes_from_the_seed_alone(checkpoint: Checkpoints, architecture: str, head: str):
    folder = checkpoint(architecture)
    torch.manual_seed(1)
    first = head_of(load(folder, head=head, seed=7))
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    again = head_of(load(folder, head=head, seed=7))
    assert torch.equal(torch.random.get_rng_state(), before)
    other = head_of(load(folder, head=head, seed=8))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("head", ["model", "mean-pool"])
def test_bfloat16_is_for_the_base_only(checkpoint: Checkpoints, head: str):
    base = load_base(ModelConfig(name=str(checkpoint("llama")), head=head), LABELS, dtype=torch.bfloat16)
    dtypes = {name: parameter.dtype for name, parameter in base.model.named_parameters()}
    assert {dtype for name, dtype in dtypes.items() if name.startswith(base.head_modules)} == {torch.float32}
    assert {dtype for name, dtype in dtypes.items() if not name.startswith(base.head_modules)} == {torch.bfloat16}
    assert {buffer.dtype for buffer in base.model.buffers() if buffer.is_floating_point()} == {torch.float32}


def test_configuration_is_overridden(checkpoint: Checkpoints):
    base = load(checkpoint("bert"), config={"num_hidden_layers": 1})
    assert len(base.model.bert.encoder.layer) == 1


def test_labels_have_names(checkpoint: Checkpoints):
    config = load(checkpoint("bert"), labels=("pets", "fruit", "stars")).model.config
    assert config.num_labels == 3
    assert config.id2label == {0: "pets", 1: "fruit", 2: "stars"}
    assert config.label2id["stars"] == 2


@pytest.mark.parametrize("architecture", DECODERS)
def test_padding_token_of_a_decoder_is_its_end_token(checkpoint: Checkpoints, architecture: str):
    base = load(checkpoint(architecture))
    assert base.tokenizer.pad_token == "[SEP]"
    assert base.model.config.pad_token_id == base.tokenizer.pad_token_id == 3
    assert base.model.config.use_cache is False


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama", "roberta"])
def test_tokenizer_keeps_within_the_positions(checkpoint: Checkpoints, architecture: str):
    """Tokenizers often name no limit; the model has 40 positions, RoBERTa 41 of which the first is for padding."""
    tokenizer = load_tokenizer(ModelConfig(name=str(checkpoint(architecture, tokenizer_limit=None))))
    assert tokenizer.model_max_length == models.POSITIONS
    tokenizer = load_tokenizer(ModelConfig(name=str(checkpoint(architecture, tokenizer_limit=10))))
    assert tokenizer.model_max_length == 10


def test_nothing_is_said(checkpoint: Checkpoints, capfd: pytest.CaptureFixture[str]):
    transformers.logging.enable_progress_bar()
    level = transformers.logging.get_verbosity()
    load(checkpoint("distilbert"))
    assert capfd.readouterr() == ("", "")
    assert transformers.logging.is_progress_bar_enabled()
    assert transformers.logging.get_verbosity() == level


def fails(name: Path | str, *said: str, **section: Any) -> str:
    with pytest.raises(ModelError) as error:
        load_base(ModelConfig(name=str(name), **section), LABELS)
    message = str(error.value)
    assert "\n" not in message
    for part in (str(name), *said):
        assert part in message
    return message


@pytest.fixture
def broken(checkpoint: Checkpoints, tmp_path: Path) -> Path:
    return shutil.copytree(checkpoint("bert"), tmp_path / "broken")


def test_folder_that_is_no_model(tmp_path: Path):
    fails(tmp_path, "no config.json")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "../nowhere"])
def test_no_such_folder(name: str):
    fails(name, "no such folder")


def test_a_file_is_no_folder(tmp_path: Path):
    path = tmp_path / "model.bin"
    path.touch()
    fails(path, "no such folder")


def test_unknown_hub_name_offline(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    start = time.perf_counter()
    fails("nobody/no-such-model", "Hub id that can be reached or is cached")
    assert time.perf_counter() - start < 5


def test_unreachable_hub_is_asked_once(monkeypatch: pytest.MonkeyPatch):
    """Without the probe, huggingface_hub retries each file for 23 seconds."""
    asked = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(files, "reachable", lambda: bool(asked.append(1)))
    files._hub_answers.cache_clear()
    start = time.perf_counter()
    for _ in range(2):
        fails("nobody/no-such-model", "Hub id that can be reached or is cached")
    assert time.perf_counter() - start < 5
    assert asked == [1]
    files._hub_answers.cache_clear()


def test_folder_without_weights(broken: Path):
    (broken / "model.safetensors").unlink()
    fails(broken, "model.safetensors")


def test_truncated_weights(broken: Path):
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    fails(broken, "incomplete" if as_tested("safetensors") else "Incomplete")


def test_damaged_configuration(broken: Path):
    (broken / "config.json").write_text("{")
    fails(broken, "valid JSON")


def test_unknown_architecture(broken: Path):
    (broken / "config.json").write_text('{"model_type": "perceptron"}')
    fails(broken, "perceptron")


def test_code_of_a_checkpoint_is_not_run(broken: Path, capfd: pytest.CaptureFixture[str]):
    """Neither is it asked on the terminal whether it may be."""
    (broken / "config.json").write_text('{"model_type": "own", "auto_map": {"AutoConfig": "code.OwnConfig"}}')
    (broken / "code.py").write_text("raise SystemExit")
    fails(broken, "custom code")
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("damage", ["{", '{"version": "1.0"}', '{"model": {"type": "WordLevel", "vocab": {}}}'])
def test_damaged_tokenizer(broken: Path, damage: str):
    """Tokenizers raises `Exception` itself, which was called a fault of ours."""
    (broken / "tokenizer.json").write_text(damage)
    fails(broken, "cannot be loaded")


@pytest.mark.parametrize(("name", "key", "value"), [("tokenizer_config.json", "model_max_length", "long")])
def test_a_length_that_is_no_number(broken: Path, name: str, key: str, value: object):
    settings = json.loads((broken / name).read_text())
    (broken / name).write_text(json.dumps({**settings, key: value}))
    fails(broken, "cannot be loaded")


def test_folder_without_tokenizer(broken: Path):
    for path in broken.glob("tokenizer*"):
        path.unlink()
    fails(broken, "has no tokenizer")


def test_tokenizer_without_padding_and_end(broken: Path):
    settings = json.loads((broken / "tokenizer_config.json").read_text())
    kept = {key: value for key, value in settings.items() if not key.endswith("_token")}
    (broken / "tokenizer_config.json").write_text(json.dumps(kept))
    fails(broken, "neither a padding nor an end token")


def test_padding_token_without_an_embedding(checkpoint: Checkpoints, tmp_path: Path):
    """A token that was added to the tokenizer and not to the model."""
    folder = shutil.copytree(checkpoint("gpt2"), tmp_path / "gpt2")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[EXTRA]"})
    tokenizer.save_pretrained(folder)
    number = len(models.WORDS)
    fails(folder, f"padding token is number {number}", f"{number} embeddings")


def test_architecture_that_cannot_classify(tmp_path: Path):
    vit = transformers.ViTConfig(
        **{"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8},
        **{"image_size": 4, "patch_size": 2},
    )
    transformers.ViTModel(vit).save_pretrained(tmp_path)
    models.save_tokenizer(tmp_path, decoder=False)
    fails(tmp_path, "ViTConfig")
    fails(tmp_path, "pixel_values", head="mean-pool")


@pytest.mark.parametrize("head", ["auto", "model", "mean-pool"])
@pytest.mark.parametrize(
    ("override", "missing"),
    [({"num_hidden_layers": 3}, "encoder.layer.2"), ({"hidden_size": 32}, "embeddings.LayerNorm")],
    ids=["deeper", "wider"],
)
def test_a_backbone_that_is_not_in_the_checkpoint(
    checkpoint: Checkpoints, override: dict[str, int], missing: str, head: str
):
    """Two layers of width 16 were saved; the rest would be random and frozen."""
    fails(checkpoint("bert"), missing, head=head, config=override)


def test_unknown_key_of_the_configuration(checkpoint: Checkpoints):
    fails(checkpoint("bert"), "num_hiden_layers", "did you mean 'num_hidden_layers'?", config={"num_hiden_layers": 1})


def test_wrong_value_of_the_configuration(checkpoint: Checkpoints):
    """An older version of transformers does not check types, and says what came of it."""
    said = ("num_hidden_layers", "expected int") if as_tested("transformers") else ("'str' object",)
    fails(checkpoint("bert"), *said, config={"num_hidden_layers": "two"})


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mappings are read from Linux's /proc")
def test_processes_share_the_weights_of_a_checkpoint_in_its_own_precision(checkpoint: Checkpoints):
    """The frozen weights are the file's own pages: not one of them was written to, so all processes see the same."""
    path = checkpoint("bert")
    base = load_base(ModelConfig(name=str(path)), ("a", "b"), seed=0, dtype=torch.float32)
    start = next(p for name, p in base.model.named_parameters() if "word_embeddings" in name).data_ptr()
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    found = [line for line in maps if line.endswith(f"{path}/model.safetensors")]
    spans = [[int(end, 16) for end in line.split()[0].split("-")] for line in found]
    assert any(first <= start < last for first, last in spans)
