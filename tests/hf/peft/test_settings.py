"""``adapter_config.json``: every setting that PEFT knows has a fate, and what is not quite JSON is read or refused."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import peft
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyrank.core.errors import AdapterError
from polyrank.hf.peft.fields import FIELDS, LEAVES_THE_BASE
from polyrank.hf.peft.patterns import rank_and_scale, targeted
from polyrank.hf.peft.settings import SETTINGS, read_settings

ON: dict[str, Any] = {
    "megatron_config": {},
    "use_dora": True,
    "use_qalora": True,
    "use_bdlora": {},
    "kasa_config": {},
    "monteclora_config": {},
    "arrow_config": {},
    "alora_invocation_tokens": [5],
    "trainable_token_indices": {"embed_tokens": [0]},
    "target_parameters": ["experts.down_proj"],
    "layer_replication": [[0, 1]],
}
"""A value of each refused setting that is in effect; PEFT makes a configuration of defaults of an empty object."""


def put(folder: Path, **settings: Any) -> Path:
    (folder / SETTINGS).write_text(json.dumps({"peft_type": "LORA", **settings}))
    return folder


def refused(folder: Path) -> str:
    with pytest.raises(AdapterError) as error:
        read_settings(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_field_of_pefts_has_a_fate():
    """A newer PEFT fails here: decide for its new settings, and write down why."""
    assert FIELDS.keys() == {field.name for field in dataclasses.fields(peft.LoraConfig)}
    assert {name for name, field in FIELDS.items() if field.fate == "refused"} == ON.keys()


def test_what_peft_writes_by_default_is_read(tmp_path: Path):
    peft.LoraConfig(target_modules=["query"]).save_pretrained(str(tmp_path))
    read = read_settings(tmp_path)
    assert read.keys() >= FIELDS.keys() - {"runtime_config"}
    assert (read["r"], read["target_modules"]) == (8, ["query"])


@pytest.mark.parametrize("name", ON)
def test_settings_that_are_more_than_lora_are_refused_by_name(tmp_path: Path, name: str):
    said = refused(put(tmp_path, **{name: ON[name]}))
    assert f"the adapter has {name}, which is more than" in said
    for off in (None, False):
        read_settings(put(tmp_path, **{name: off}))


@pytest.mark.parametrize(
    ("name", "value"),
    [("alora_invocation_tokens", []), ("trainable_token_indices", []), ("target_parameters", []), ("use_dora", 0)],
)
def test_empty_values_that_peft_takes_for_off(tmp_path: Path, name: str, value: Any):
    read_settings(put(tmp_path, **{name: value}))


@pytest.mark.parametrize("name", ["use_dora", "use_qalora"])
def test_a_text_is_true_for_peft(tmp_path: Path, name: str):
    """``if use_dora:`` takes "false" for true."""
    assert name in refused(put(tmp_path, **{name: "false"}))


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "corda", "olora", "OLoRA", "loftq", "lora_ga", "true"])
def test_starts_that_change_the_base_are_refused(tmp_path: Path, start: str):
    """PEFT compares OLoRA's name in small letters; a start by an unknown name may do anything."""
    assert f"init_lora_weights {start!r}" in refused(put(tmp_path, init_lora_weights=start))


@pytest.mark.parametrize("start", [True, False, None, "Gaussian", *LEAVES_THE_BASE])
def test_starts_that_leave_the_base_alone(tmp_path: Path, start: Any):
    read_settings(put(tmp_path, init_lora_weights=start, loftq_config={"loftq_bits": 4}, eva_config={"rho": 1.0}))


@pytest.mark.parametrize("value", [True, 0, 1, 0.5, "yes", [1], {"a": None}])
def test_an_unknown_setting_is_refused_by_name(tmp_path: Path, value: Any):
    said = refused(put(tmp_path, gate_config=value, peft_version="0.99.0"))
    assert "gate_config" in said
    assert "PEFT 0.99.0" in said


@pytest.mark.parametrize("value", [None, False, "", [], {}])
def test_an_unknown_setting_that_is_off_is_not(tmp_path: Path, value: Any):
    read_settings(put(tmp_path, gate_config=value))


def test_a_setting_that_only_the_installed_peft_knows_may_have_its_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    newer = dataclasses.make_dataclass("Newer", [("group", int, 16), ("gates", list, dataclasses.field(default=3))])
    monkeypatch.setattr(peft, "LoraConfig", newer)
    read_settings(put(tmp_path, group=16, gates=3))
    assert "group = 8" in refused(put(tmp_path, group=8))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_a_byte_order_mark_and_other_encodings_of_json(tmp_path: Path, encoding: str):
    (tmp_path / SETTINGS).write_bytes(json.dumps({"peft_type": "LORA", "revision": "größer"}).encode(encoding))
    assert read_settings(tmp_path)["revision"] == "größer"


def test_whole_numbers_with_a_point(tmp_path: Path):
    read = read_settings(put(tmp_path, r=4.0, rank_pattern={"query": 2.0}, layers_to_transform=[1.0]))
    assert (read["r"], read["rank_pattern"], read["layers_to_transform"]) == (4, {"query": 2}, [1])
    assert all(isinstance(each, int) for each in (read["r"], read["rank_pattern"]["query"]))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"peft_type": "LORA",}', "it is no JSON from line 1, column 22 on"),
        (b"{'peft_type': 'LORA'}", "it is no JSON from line 1, column 2 on"),
        (b'{\n "r": 4, // the rank\n', "it is no JSON from line 2, column 10 on"),
        (b"", "it is no JSON from line 1"),
        (b'{"r": "\xff"}', "its text is broken at byte 7"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"r": ' + b"9" * 5000 + b"}", "digits"),
    ],
)
def test_no_json_is_told_in_our_own_words(tmp_path: Path, content: bytes, said: str):
    (tmp_path / SETTINGS).write_bytes(content)
    assert said in refused(tmp_path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"modules_to_save": "classifier"}, "modules_to_save is 'classifier'; expected a list of names or null"),
        ({"modules_to_save": [""]}, "modules_to_save is ['']"),
        ({"target_modules": {"a": 1}}, "target_modules is {'a': 1}; expected a list of names, a pattern or null"),
        ({"use_rslora": "false"}, "use_rslora is 'false'; expected true, false or null"),
        ({"ensure_weight_tying": "no"}, "ensure_weight_tying is 'no'"),
        ({"layers_to_transform": "1"}, "layers_to_transform is '1'; expected a whole number"),
        ({"layers_to_transform": [1.5]}, "layers_to_transform is [1.5]"),
        ({"rank_pattern": [1]}, "rank_pattern is [1]; expected an object"),
        ({"bias": "some"}, "bias is 'some'; expected none, all or lora_only"),
        ({"lora_dropout": "0.1"}, "lora_dropout is '0.1'; expected a number"),
        ({"revision": "x" * 500}, None),
        ({"revision": ["x" * 500]}, "xxx"),
    ],
)
def test_values_of_another_kind(tmp_path: Path, settings: dict[str, Any], said: str | None):
    put(tmp_path, **settings)
    if said is None:
        read_settings(tmp_path)
    else:
        message = refused(tmp_path)
        assert said in message
        assert len(message) < 300 + len(str(tmp_path))


TEXT = st.text("aq.*(+^{9}", max_size=5)
VALUE = st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.just(10**400)
JSON = VALUE | st.lists(VALUE, max_size=3) | st.dictionaries(TEXT, VALUE, max_size=3)


@given(st.dictionaries(st.sampled_from([*FIELDS, "newer"]), JSON))
def test_whatever_the_settings_hold_only_adapter_errors_are_raised(tmp_path_factory: Any, settings: dict[str, Any]):
    folder = tmp_path_factory.mktemp("any")
    put(folder, **{**settings, "peft_type": "LORA"})
    with contextlib.suppress(AdapterError):
        read = read_settings(folder)
        rank_and_scale(folder, read, {"layers.0.query", "_orig_mod.layers.0.query"})
        targeted(folder, read, "layers.0.query")


@given(st.binary(max_size=60))
def test_whatever_bytes_the_file_holds_only_adapter_errors_are_raised(tmp_path_factory: Any, content: bytes):
    folder = tmp_path_factory.mktemp("any")
    (folder / SETTINGS).write_bytes(content)
    refused(folder)
