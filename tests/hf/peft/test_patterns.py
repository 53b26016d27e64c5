"""Names that settings match: PEFT itself decides, and what is written matches one module."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key

from polyrank.core.errors import AdapterError
from polyrank.hf.peft.names import common_wrapping, factor, inner_name, unwrapped
from polyrank.hf.peft.patterns import exact, exact_targets, rank_and_scale, same_value, targeted

NAMES = st.lists(st.text("ab0_.+*$(|\\[", min_size=1, max_size=6), min_size=2, max_size=6, unique=True)
"""Names with characters that regular expressions read in other ways, short enough for one to end another."""


@given(NAMES)
def test_what_is_written_matches_its_module_alone(names: list[str]):
    one, *others = names
    assert get_pattern_key([exact(one)], one) == exact(one)
    config = SimpleNamespace(target_modules=exact_targets([one]), target_parameters=None)
    assert check_target_module_exists(config, one)
    for other in (*others, f"x.{one}", f"{one}x"):
        assert get_pattern_key([exact(one)], other) == other
        assert not check_target_module_exists(config, other)


@pytest.mark.parametrize(
    ("settings", "rank", "scale"),
    [
        ({}, 8, 1.0),  # PEFT's defaults
        ({"r": 4, "lora_alpha": 6, "rank_pattern": {"query": 3}}, 3, 2.0),
        ({"r": 4, "lora_alpha": 6, "rank_pattern": {"uery": 3}}, 4, 1.5),
        ({"r": 4, "lora_alpha": 6, "rank_pattern": {r"layer\.\d\.query": 2, "query": 3}}, 2, 3.0),
        ({"r": 4, "lora_alpha": 6, "alpha_pattern": {"layer.0.q.*": 2}, "use_rslora": True}, 4, 1.0),
        ({"r": 4, "lora_alpha": 6, "alpha_pattern": {"^query": 2}}, 4, 1.5),
    ],
)
def test_rank_and_scale_as_peft_reads_them(settings: dict[str, Any], rank: int, scale: float):
    """The first pattern that matches the name or its ending, and alpha / r or alpha / sqrt(r)."""
    assert rank_and_scale(Path("a"), settings, {"layer.0.query"}) == (rank, scale)


@pytest.mark.parametrize("alpha", [None, "4", True, float("inf"), 10**400])
def test_an_alpha_without_sense(alpha: Any):
    with pytest.raises(AdapterError, match=r"lora_alpha .* for fc; expected numbers"):
        rank_and_scale(Path("a"), {"r": 2, "lora_alpha": alpha}, {"fc"})


def test_a_pattern_that_tells_a_wrapped_name_from_the_plain_one_is_refused():
    """PEFT trained ``_orig_mod.fc`` by its own name, which ``^fc`` does not match."""
    names = {"fc", "_orig_mod.fc"}
    assert rank_and_scale(Path("a"), {"r": 2, "lora_alpha": 4, "alpha_pattern": {"fc": 8}}, names) == (2, 4.0)
    with pytest.raises(AdapterError, match=r"tell _orig_mod\.fc and fc apart"):
        rank_and_scale(Path("a"), {"r": 2, "lora_alpha": 4, "alpha_pattern": {"^fc": 8}}, names)


@pytest.mark.parametrize(
    ("settings", "yes"),
    [
        ({"target_modules": None}, True),
        ({"target_modules": "all-linear"}, True),
        ({"target_modules": ["query"]}, True),
        ({"target_modules": ["uery"]}, False),
        ({"target_modules": r".*\.(query|value)"}, True),
        ({"target_modules": "query"}, False),
        ({"target_modules": ["query"], "exclude_modules": ["0.query"]}, False),
        ({"target_modules": ["query"], "modules_to_save": ["layers"]}, False),
        ({"target_modules": ["query"], "layers_to_transform": 1}, False),
        ({"target_modules": ["query"], "layers_to_transform": [0, 1]}, True),
        ({"target_modules": ["query"], "layers_to_transform": [0], "layers_pattern": "blocks"}, False),
    ],
)
def test_whether_peft_gives_a_module_lora(settings: dict[str, Any], yes: bool):
    assert targeted(Path("a"), settings, "encoder.layers.0.query") is yes


@pytest.mark.parametrize(
    ("key", "left", "right", "same"),
    [
        ("target_modules", ["a", "b"], ["b", "a", "a"], True),
        ("target_modules", ["a"], "a", False),
        ("exclude_modules", None, [], True),
        ("exclude_modules", None, ["a"], False),
        ("layers_to_transform", 1, [1], True),
        ("layers_to_transform", 0, None, False),
        ("layers_to_transform", [1, 0], [0, 1], True),
        ("layers_pattern", "h", ["h"], True),
        ("layers_pattern", ["h", "layers"], ["layers", "h"], False),
    ],
)
def test_values_that_peft_reads_in_one_way(key: str, left: Any, right: Any, same: bool):
    assert same_value(key, left, right) is same
    assert same_value(key, right, left) is same


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("base_model.model.fc.weight", "fc.weight"),
        ("base_model.model._orig_mod.fc.weight", "fc.weight"),
        ("_orig_mod.base_model.model.fc.weight", "fc.weight"),
        ("module._orig_mod.base_model.model.fc.weight", "fc.weight"),
        ("base_model.model.layers.0._orig_mod.fc.weight", "layers.0.fc.weight"),
        ("base_model.model.layers.0._fsdp_wrapped_module._checkpoint_wrapped_module.fc.weight", "layers.0.fc.weight"),
        ("base_model.model.module.fc.weight", "module.fc.weight"),
        ("base_model.model.base_model.model.fc.weight", "base_model.model.fc.weight"),
        ("fc.weight", None),
        ("other.base_model.model.fc.weight", None),
    ],
)
def test_names_without_what_wrappers_add(key: str, name: str | None):
    """``module`` and a second prefix of PEFT's may be a base's own names: they stay until another adapter tells."""
    inner = inner_name(key)
    assert (unwrapped(inner) if inner else None) == name


def test_a_start_is_common_to_all_or_none():
    assert common_wrapping(["module.a.x", "module.b.x"]) == "module."
    assert common_wrapping(["module.a.x", "b.x"]) == ""
    assert common_wrapping([]) == ""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fc.lora_magnitude_vector", "DoRA"),
        ("fc.lora_diag", "no plain LoRA factor"),
        ("mha.base_layer.out_proj.lora_A.weight", "MultiheadAttention"),
        ("fc.lora_A.default.weight", "live model"),
        ("words.lora_embedding_B.default", "live model"),
        ("head.modules_to_save.default.weight", "live model"),
        ("head.original_module.weight", "live model"),
        ("words.token_adapter.trainable_tokens_delta", "trainable_token_indices"),
    ],
)
def test_tensors_of_more_than_lora_are_refused_by_name(name: str, said: str):
    with pytest.raises(AdapterError, match=said) as error:
        factor(name)
    assert str(error.value).startswith(name.partition(".lora_magnitude")[0])
