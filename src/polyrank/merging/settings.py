"""The settings of a merged adapter: what of its inputs' settings stays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from polyrank.core.errors import AdapterError
from polyrank.hf.peft.file import AdapterFile
from polyrank.hf.peft.patterns import exact_targets, same_value, targeted
from polyrank.hf.peft.settings import Settings
from polyrank.hf.peft.tying import ties

WHERE = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
"""Settings that say together which modules have LoRA."""


def settings_of(
    files: Sequence[AdapterFile], modules: Iterable[str], *, lora_bias: bool, whole: bool
) -> dict[str, Any]:
    """Settings as PEFT reads them; ranks and alphas are added when the folder is written.

    Args:
        files: the inputs.
        modules: of the merged adapter.
        lora_bias: whether B has biases.
        whole: whether no input lacks anything that others have.
    """
    known = [file.settings for file in files]

    def first(key: str) -> Any:  # Any: JSON values
        return next((settings[key] for settings in known if settings.get(key) is not None), None)

    saved = sorted({name for settings in known for name in settings.get("modules_to_save") or ()})
    mapping = first("auto_mapping")
    return {
        "peft_type": "LORA",
        "task_type": first("task_type"),
        "base_model_name_or_path": first("base_model_name_or_path"),
        "revision": first("revision"),
        "auto_mapping": mapping if all(each.get("auto_mapping") in (None, mapping) for each in known) else None,
        "modules_to_save": saved or None,
        "lora_dropout": first("lora_dropout") or 0.0,
        "fan_in_fan_out": bool(first("fan_in_fan_out")),
        "bias": first("bias") or "none",
        "lora_bias": lora_bias,
        "inference_mode": True,
        **({"ensure_weight_tying": True} if any(ties(file) for file in files) else {}),
        **_where(files, modules, whole=whole),
    }


def check_loads(settings: Settings, modules: Iterable[str]) -> None:
    """PEFT gives every module LoRA under these settings.

    Raises:
        AdapterError: a module lies in one that another adapter trains whole, which PEFT does not allow.
    """
    for name in modules:
        if not targeted(Path("the merged adapter"), settings, name):
            raise AdapterError(
                f"{name} is trained by LoRA in one adapter, and lies in a module that another trains whole "
                f"({', '.join(settings.get('modules_to_save') or ())}); PEFT loads no adapter that has both"
            )


def _where(files: Sequence[AdapterFile], modules: Iterable[str], *, whole: bool) -> dict[str, Any]:
    """Where LoRA is: as the inputs say, if all say the same and their names are the base's own; else by name.

    A list of names matches their endings, too. That does no harm to the modules of an input that has such a list: what
    ends like one of them is then another of them. Else the names become a pattern that matches nothing more. PEFT finds
    tied embeddings in lists only.
    """
    known = [file.settings for file in files]
    renamed = any(file.renamed for file in files)
    if whole and not renamed and all(same_value(key, s.get(key), known[0].get(key)) for s in known for key in WHERE):
        return {key: known[0].get(key) for key in WHERE}
    names = sorted(modules)
    by_list = {name for file in files if _lists(file.settings) for name in file.layers}
    listed = by_list.issuperset(names) or any(ties(file) for file in files)
    return {"target_modules": names if listed else exact_targets(names)}


def _lists(settings: Settings) -> bool:
    """Whether modules are targeted by a list of names, and none of them is left out again."""
    rest = all(same_value(key, settings.get(key), None) for key in WHERE[1:])
    return isinstance(settings.get("target_modules"), list) and rest
