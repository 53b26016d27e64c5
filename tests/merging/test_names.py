"""One module is one module, whatever wrappers its name went through; and adapters of other names are no merge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from polyrank.core.errors import AdapterError
from polyrank.hf.peft import folder as peft_folder
from polyrank.merging.merge import merge
from tests.merging.folders import PREFIX, SHAPES, edit, replace_tensors, tensors_of, write
from tests.merging.plain_peft import agree, gated, loaded, mean, saved

SETTINGS = {"target_modules": ["fc.0", "gate"], "modules_to_save": ["head"]}


def rename(folder: Path, change: Callable[[str], str]) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({change(key): tensor.clone() for key, tensor in load_file(path).items()}, path)


WRAPPED: dict[str, Callable[[str], str]] = {
    "compiled before PEFT": lambda key: key.replace(PREFIX, f"{PREFIX}_orig_mod."),
    "compiled after PEFT": lambda key: f"_orig_mod.{key}",
    "compiled by regions": lambda key: key.replace("gate", "_orig_mod.gate"),
    "sharded": lambda key: key.replace("fc.0", "_fsdp_wrapped_module.fc.0._fsdp_wrapped_module"),
    "with checkpoints": lambda key: key.replace("head", "_checkpoint_wrapped_module.head"),
    "parallel before PEFT": lambda key: key.replace(PREFIX, f"{PREFIX}module."),
    "parallel after PEFT": lambda key: f"module.{key}",
    "PEFT twice": lambda key: PREFIX + key,
    "all at once": lambda key: f"module._orig_mod.{PREFIX}module.{PREFIX}_orig_mod.{key.removeprefix(PREFIX)}",
}


@pytest.mark.parametrize("kind", WRAPPED)
@pytest.mark.parametrize("order", [1, -1])
def test_a_wrapped_adapter_beside_a_plain_one(tmp_path: Path, kind: str, order: int):
    base = gated()
    models = [saved(base, tmp_path / name, i, r=2 + i, **SETTINGS) for i, name in enumerate("ab")]
    rename(tmp_path / "b", WRAPPED[kind])
    folders, weights = [tmp_path / "a", tmp_path / "b"][::order], [3, 1][::order]
    merged = merge(folders, weights, method="flora")
    assert not merged.lacking
    merged.save(tmp_path / "out")
    again = loaded(base, tmp_path / "out")
    agree(again, mean(models, [3, 1]))
    heads = [model.base_model.model.head.modules_to_save["default"].weight for model in (*models, again)]
    assert heads[2].detach().allclose(0.75 * heads[0] + 0.25 * heads[1], atol=1e-6)


def test_settings_of_the_wrapped_names_are_rewritten(tmp_path: Path):
    """Target modules and saved modules by their full, compiled names mean nothing to the plain base."""
    base = gated()
    model = saved(base, tmp_path / "a", 1, r=2, **SETTINGS)
    rename(tmp_path / "a", WRAPPED["compiled before PEFT"])
    edit(tmp_path / "a", target_modules=r"_orig_mod\.(fc\.0|gate)", modules_to_save=["_orig_mod.head"])
    merge([tmp_path / "a"], method="flora").save(tmp_path / "out")
    agree(loaded(base, tmp_path / "out"), mean([model], [1]))


def test_a_name_that_all_share_is_the_bases_own(tmp_path: Path):
    """Nothing says that ``module`` was added: the merge loads where its inputs load."""
    for i, name in enumerate("ab"):
        saved(gated(), tmp_path / name, i, r=2, **SETTINGS)
        rename(tmp_path / name, WRAPPED["parallel before PEFT"])
    merged = merge([tmp_path / "a", tmp_path / "b"])
    assert merged.adapter.modules.keys() == {"module.fc.0", "module.gate"}
    assert merged.adapter.dense.keys() == {"module.head.weight", "module.head.bias"}


def test_three_adapters_of_which_one_is_plain(tmp_path: Path):
    base = gated()
    models = [saved(base, tmp_path / name, i, r=2, **SETTINGS) for i, name in enumerate("abc")]
    for name in "bc":
        rename(tmp_path / name, WRAPPED["PEFT twice"])
    merge([tmp_path / name for name in "abc"], method="flora").save(tmp_path / "out")
    agree(loaded(base, tmp_path / "out"), mean(models, [1, 1, 1]))


def test_inspect_and_read_see_plain_names(tmp_path: Path):
    folder = write(tmp_path / "a")
    names = peft_folder.read(folder).modules.keys()
    rename(folder, WRAPPED["compiled before PEFT"])
    assert peft_folder.read(folder).modules.keys() == names == SHAPES.keys()


def test_one_name_twice_is_refused(tmp_path: Path):
    folder = write(tmp_path / "a")
    tensors = tensors_of(folder)
    replace_tensors(folder, {**tensors, **{f"_orig_mod.{name}": tensor + 1 for name, tensor in tensors.items()}})
    with pytest.raises(AdapterError, match=r"holds encoder\.layer\.0\.dense\.lora_A\.weight twice"):
        merge([folder])


def test_adapters_without_a_common_module_are_no_merge(tmp_path: Path):
    """The same base before and after its layers were renamed; one name of each is shown."""
    folders = [write(tmp_path / "new", seed=1), write(tmp_path / "old", seed=2)]
    rename(folders[1], lambda key: key.replace("encoder.layer", "layers"))
    with pytest.raises(AdapterError, match=r"new and .*old have no module in common: encoder\.\S+ .* layers\.\S+ "):
        merge(folders)


def test_two_groups_without_a_common_module_are_no_merge(tmp_path: Path):
    folders = [write(tmp_path / str(i), seed=i) for i in range(4)]
    for folder in folders[2:]:
        rename(folder, lambda key: key.replace("encoder.layer", "layers"))
    with pytest.raises(AdapterError, match=r"/0 and .*/2 have no module in common"):
        merge(folders)


def test_adapters_that_hang_together_by_a_third_are_a_merge(tmp_path: Path):
    """Queries, denses, and both: the third shows that the names are of one base."""
    queries, denses = ([name for name in SHAPES if kind in name] for kind in ("query", "dense"))
    folders = [
        write(tmp_path / "a", dict.fromkeys(queries, 2)),
        write(tmp_path / "b", dict.fromkeys(denses, 2)),
        write(tmp_path / "c", 2),
    ]
    assert merge(folders).adapter.modules.keys() == SHAPES.keys()
    with pytest.raises(AdapterError, match="no module in common"):
        merge(folders[:2])
    merge(folders[:2], [1, 0])
