from __future__ import annotations

import json
import math
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import AdapterError
from polyrank.hf.files import quiet
from polyrank.hf.peft import folder as peft_folder
from polyrank.hf.peft.folder import OURS, SETTINGS, WEIGHTS, Target
from polyrank.hf.peft.patterns import alpha_of
from polyrank.hf.resident import ResidentModel
from tests.models import ARCHITECTURES, LABELS, Checkpoints, batch, logits, random_adapter, resident

BOTH_HEADS = [(architecture, head) for architecture in ARCHITECTURES for head in ("model", "mean-pool")]


def target_of(model: ResidentModel) -> Target:
    return Target(model.base.config, LABELS, model.base.head_modules)


def plain_classifier(folder: Path, **options: Any) -> torch.nn.Module:
    """What a user without PolyRank loads; a decoder has to be told its padding token."""
    with quiet():
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, **options)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = 3
    return model


def load_with_peft(base: torch.nn.Module, folder: Path) -> torch.nn.Module:
    """Any complaint of PEFT's is an error, but for a remark on transposed layers that it puts right itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False but the target module is `Conv1D`")
        return peft.PeftModel.from_pretrained(base, folder)


@pytest.mark.parametrize("targets", ["default", "all-linear"])
@pytest.mark.parametrize(("architecture", "head"), BOTH_HEADS)
def test_plain_peft_computes_the_same(
    checkpoint: Checkpoints, tmp_path: Path, architecture: str, head: str, targets: str
):
    """Ranks and scales differ from module to module, so both patterns are in use."""
    folder = checkpoint(architecture)
    model = resident(folder, head=head, targets=targets)
    adapter = random_adapter(model)
    model.install(adapter)
    inputs = batch(model)
    expected = logits(model.model, inputs)
    peft_folder.write(tmp_path, adapter, target_of(model))
    settings = json.loads((tmp_path / SETTINGS).read_text())
    assert settings["rank_pattern"]
    assert settings["alpha_pattern"]

    ours = peft_folder.base_model(tmp_path).model
    assert not torch.allclose(logits(ours, inputs), expected, atol=0.01)
    torch.testing.assert_close(logits(load_with_peft(ours, tmp_path), inputs), expected, rtol=1e-5, atol=1e-5)
    if head == "model":
        plain = load_with_peft(plain_classifier(folder), tmp_path)
        torch.testing.assert_close(logits(plain, inputs), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "options", "section"),
    [
        ("bert", {"pooler": False}, {"head": "model"}),  # the new pooler lies inside of the backbone
        ("roberta", {"classifier": 3}, {"targets": "all-linear"}),  # one half of the head is new, LoRA is on the other
        ("bert", {}, {"head": "model", "config": {"num_hidden_layers": 1}}),
        ("bert", {"classifier": 2}, {"head": "model"}),
    ],
    ids=["new pooler", "half a head", "fewer layers", "saved head"],
)
def test_unusual_heads(
    checkpoint: Checkpoints, tmp_path: Path, architecture: str, options: dict[str, Any], section: dict[str, Any]
):
    folder = checkpoint(architecture, **options)
    model = resident(folder, **section)
    adapter = random_adapter(model)
    model.install(adapter)
    inputs = batch(model)
    peft_folder.write(tmp_path, adapter, target_of(model))
    plain = plain_classifier(folder, ignore_mismatched_sizes=True, **section.get("config", {}))
    for base in (peft_folder.base_model(tmp_path).model, plain):
        found = logits(load_with_peft(base, tmp_path), inputs)
        torch.testing.assert_close(found, logits(model.model, inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("architecture", "head"), BOTH_HEADS)
def test_what_is_written_is_read_back(checkpoint: Checkpoints, tmp_path: Path, architecture: str, head: str):
    model = resident(checkpoint(architecture), head=head)
    adapter = random_adapter(model)
    peft_folder.write(tmp_path, adapter, target_of(model))
    assert peft_folder.read(tmp_path).identical(adapter)
    assert peft_folder.read_target(tmp_path) == target_of(model)
    assert {path.name for path in tmp_path.iterdir()} == {WEIGHTS, SETTINGS, OURS}


def test_cut_and_narrow_adapters_are_read_back(checkpoint: Checkpoints, tmp_path: Path):
    """Views of larger tensors, and bfloat16."""
    model = resident(checkpoint("bert"), head="model")
    adapter = random_adapter(model, rank=4, uneven=False)
    for kind in (adapter.prefix(2), adapter.map(lambda tensor: tensor.to(torch.bfloat16))):
        peft_folder.write(tmp_path, kind, target_of(model))
        assert peft_folder.read(tmp_path).identical(kind)


@pytest.mark.parametrize("targets", [r"bert\.encoder\.layer\.0\..*query", ["query"], "query", "all-linear"])
def test_targets_that_a_pattern_chose_are_written_so_that_they_match_nothing_else(
    checkpoint: Checkpoints, tmp_path: Path, targets: Any
):
    """A list would match what ends like a module; that is the same only where a list chose them."""
    model = resident(checkpoint("bert"), head="model", targets=targets)
    adapter = random_adapter(model)
    peft_folder.write(tmp_path, adapter, target_of(model))
    written = json.loads((tmp_path / SETTINGS).read_text())["target_modules"]
    assert isinstance(written, str) is (targets not in (["query"], "query", "all-linear"))
    model.install(adapter)
    inputs = batch(model)
    again = load_with_peft(peft_folder.base_model(tmp_path).model, tmp_path)
    torch.testing.assert_close(logits(again, inputs), logits(model.model, inputs), rtol=1e-5, atol=1e-5)
    assert peft_folder.read(tmp_path).identical(adapter)


def round_trip(scale: float, rank: int) -> tuple[float, float]:
    """Alpha and the scale that comes back."""
    alpha = alpha_of(Factors(torch.ones(rank, 1), torch.ones(1, rank), scale))
    return alpha, alpha / rank


@given(st.integers(1, 512), st.integers(1, 256))
def test_scales_of_lora_come_back_bit_for_bit(alpha: int, rank: int):
    """With scale alpha / r the file says alpha; with a constant scale, alpha times r."""
    assert round_trip(alpha / rank, rank) == (alpha, alpha / rank)
    assert round_trip(float(alpha), rank) == (alpha * rank, alpha)


@given(st.floats(1e-3, 1e3), st.integers(1, 256))
def test_any_scale_comes_back_within_one_bit(scale: float, rank: int):
    assert abs(round_trip(scale, rank)[1] - scale) <= math.ulp(scale)


def saved_by_peft(checkpoint: Checkpoints, folder: Path, **options: Any) -> torch.nn.Module:
    """BERT with LoRA of random factors, saved as PEFT does it."""
    settings = peft.LoraConfig(
        task_type="SEQ_CLS",
        target_modules=["query", "value", "output.dense"],
        init_lora_weights=False,
        **{"r": 2, "lora_alpha": 6, **options},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = peft.get_peft_model(plain_classifier(checkpoint("bert")), settings)
        torch.nn.init.normal_(model.base_model.model.classifier.modules_to_save["default"].weight)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"query": 4, r"layer\.1\..*value": 3}},
        {"alpha_pattern": {"value": 1, "^bert.encoder.layer.0.output.dense": 9}},
        {"rank_pattern": {"query": 5}, "alpha_pattern": {"query": 7, "dense": 2}, "use_rslora": True},
    ],
    ids=["plain", "rslora", "ranks", "alphas", "all"],
)
def test_a_folder_of_pefts_own(checkpoint: Checkpoints, tmp_path: Path, options: dict[str, Any]):
    """The deltas are those that PEFT itself would merge, and the head is the trained one."""
    model = saved_by_peft(checkpoint, tmp_path, **options)
    adapter = peft_folder.read(tmp_path)
    layers = {n: m for n, m in model.base_model.model.named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)}
    assert len(layers) == 8
    assert adapter.modules.keys() == layers.keys()
    for name, layer in layers.items():
        torch.testing.assert_close(adapter.modules[name].delta(), layer.get_delta_weight("default").detach())
    head = model.base_model.model.classifier.modules_to_save["default"]
    assert torch.equal(adapter.dense["classifier.weight"], head.weight)
    assert adapter.dense.keys() == {"classifier.weight", "classifier.bias"}

    ours = resident(checkpoint("bert"), head="model", targets=["query", "value", "output.dense"])
    ours.install(adapter)
    inputs = batch(ours)
    torch.testing.assert_close(logits(ours.model, inputs), logits(model, inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"use_rslora": True, "rank_pattern": {"query": 5}}])
def test_a_folder_of_pefts_own_written_again(checkpoint: Checkpoints, tmp_path: Path, options: dict[str, Any]):
    """rsLoRA's scale alpha / sqrt(r) becomes a plain alpha / r."""
    model = saved_by_peft(checkpoint, tmp_path / "theirs", **options)
    adapter = peft_folder.read(tmp_path / "theirs")
    ours = resident(checkpoint("bert"), head="model")
    peft_folder.write(tmp_path / "ours", adapter, target_of(ours))
    again = load_with_peft(plain_classifier(checkpoint("bert")), tmp_path / "ours")
    inputs = batch(ours)
    torch.testing.assert_close(logits(again, inputs), logits(model, inputs), rtol=1e-5, atol=1e-5)


@pytest.fixture
def folder(checkpoint: Checkpoints, tmp_path: Path) -> Path:
    """A good one, to be broken."""
    model = resident(checkpoint("bert"), head="model")
    peft_folder.write(tmp_path / "adapter", random_adapter(model), target_of(model))
    return tmp_path / "adapter"


def edit(folder: Path, **changes: Any) -> None:
    path = folder / SETTINGS
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refused(folder: Path, *said: str) -> None:
    with pytest.raises(AdapterError) as error:
        peft_folder.read(folder)
    for part in (str(folder), *said):
        assert part in str(error.value)


@pytest.mark.parametrize("name", [SETTINGS, WEIGHTS])
def test_file_is_missing(folder: Path, name: str):
    (folder / name).unlink()
    refused(folder, name)


def test_no_such_folder(tmp_path: Path):
    refused(tmp_path / "nowhere", SETTINGS)


@pytest.mark.parametrize("kept", [0, 4, 200, -50])
def test_truncated_tensors(folder: Path, kept: int):
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:kept])
    refused(folder, WEIGHTS)


@pytest.mark.parametrize("text", ["", "{", "\udcff", "[]", '"LORA"'])
def test_damaged_settings(folder: Path, text: str):
    (folder / SETTINGS).write_bytes(text.encode(errors="surrogateescape"))
    refused(folder, SETTINGS)


def test_a_pickle_is_not_loaded(folder: Path):
    (folder / WEIGHTS).unlink()
    torch.save({}, folder / "adapter_model.bin")
    refused(folder, "pickle")


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices are files of Unix")
@pytest.mark.parametrize("name", [SETTINGS, WEIGHTS])
def test_a_pipe_or_a_device_in_a_files_place_is_refused(folder: Path, name: str):
    """A pipe was waited for, and ``/dev/zero`` read until no memory was left."""
    (folder / name).unlink()
    os.mkfifo(folder / name)
    refused(folder, name)
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    refused(folder, name)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": ["pets", [1, 2, 3]]}, "labels.1: Input should be a valid string"),
        ({"labels": None}, "labels"),
        ({"head_modules": {"a": 1}}, "head_modules"),
        ({"task": {"name": 3}}, "task.name"),
        ({"task": {"options": []}}, "task.options"),
        ({"model": []}, "model"),
    ],
)
def test_ours_of_another_form_is_refused_with_the_place(folder: Path, changes: dict[str, Any], said: str):
    """A label that is a list was taken for one."""
    path = folder / "polyrank.json"
    ours = {"model": {}, "labels": ["pets", "fruit"], "head_modules": [], **changes}
    path.write_text(json.dumps(ours))
    with pytest.raises(AdapterError, match=r"polyrank\.json cannot be read") as error:
        peft_folder.read_target(folder)
    assert said in str(error.value)


def test_ours_that_is_nested_too_deeply_is_refused(folder: Path):
    (folder / "polyrank.json").write_text("[" * 100_000)
    with pytest.raises(AdapterError, match=r"polyrank\.json cannot be read"):
        peft_folder.read_target(folder)


@pytest.mark.parametrize("changes", [{"r": 9}, {"rank_pattern": {"query": 9}}])
def test_settings_that_lie_about_the_rank(folder: Path, changes: dict[str, Any]):
    edit(folder, **{"rank_pattern": {}, **changes})
    refused(folder, "says rank", "rows")


@pytest.mark.parametrize("changes", [{"r": 0}, {"r": None}, {"r": "2"}, {"lora_alpha": None}])
def test_settings_without_sense(folder: Path, changes: dict[str, Any]):
    edit(folder, rank_pattern={}, alpha_pattern={}, **changes)
    refused(folder, "r is", "lora_alpha")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"peft_type": None}, "expected LORA"),
        ({"use_dora": True}, "use_dora"),
        ({"lora_bias": True}, "lora_bias"),
        ({"bias": "all"}, "bias"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
    ],
)
def test_adapters_that_are_more_than_lora(folder: Path, changes: dict[str, Any], said: str):
    edit(folder, **changes)
    refused(folder, said)


@pytest.mark.parametrize("start", [True, False, "gaussian", "eva", "orthogonal"])
def test_starts_that_leave_the_base_alone(folder: Path, start: bool | str):
    edit(folder, init_lora_weights=start)
    peft_folder.read(folder)


def test_dora_as_peft_saves_it(checkpoint: Checkpoints, tmp_path: Path):
    saved_by_peft(checkpoint, tmp_path, use_dora=True)
    refused(tmp_path, "use_dora")
    edit(tmp_path, use_dora=False)
    refused(tmp_path, "lora_magnitude_vector")


def test_another_method_as_peft_saves_it(checkpoint: Checkpoints, tmp_path: Path):
    settings = peft.IA3Config(target_modules=["query"], feedforward_modules=[])
    peft.get_peft_model(plain_classifier(checkpoint("bert")), settings).save_pretrained(tmp_path)
    refused(tmp_path, "IA3")


def test_half_a_pair(folder: Path):
    tensors = load_file(folder / WEIGHTS)
    name = next(name for name in tensors if name.endswith("query.lora_B.weight"))
    del tensors[name]
    save_file(tensors, folder / WEIGHTS)
    refused(folder, "query", "lora_A only")


def test_no_factors_at_all(folder: Path):
    save_file({"base_model.model.classifier.weight": torch.ones(2, 2)}, folder / WEIGHTS)
    refused(folder, "no LoRA factors")


def test_base_of_a_folder_that_is_not_ours(folder: Path):
    (folder / OURS).unlink()
    with pytest.raises(AdapterError, match="not written by PolyRank"):
        peft_folder.base_model(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": {}, "labels": 3, "head_modules": []}'])
def test_damaged_target(folder: Path, text: str):
    (folder / OURS).write_text(text)
    with pytest.raises(AdapterError, match=OURS):
        peft_folder.read_target(folder)


def test_a_byte_order_mark_in_our_own_file(folder: Path):
    expected = peft_folder.read_target(folder)
    for name in (OURS, SETTINGS):
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    assert peft_folder.read_target(folder) == expected
    peft_folder.read(folder)


def test_base_takes_the_options_of_load_base(folder: Path):
    base = peft_folder.base_model(str(folder), dtype=torch.bfloat16)
    assert base.model.bert.embeddings.word_embeddings.weight.dtype == torch.bfloat16


def test_folder_is_written_over(checkpoint: Checkpoints, folder: Path, tmp_path: Path):
    model = resident(checkpoint("bert"), head="model")
    kept = shutil.copytree(folder, tmp_path / "kept")
    other: Adapter = random_adapter(model, seed=5)
    peft_folder.write(folder, other, target_of(model))
    assert peft_folder.read(folder).identical(other)
    assert not peft_folder.read(kept).identical(other)
