"""What PolyRank does with every setting of PEFT's ``LoraConfig``: keep it, leave it out, or refuse it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

Fate = Literal["kept", "harmless", "refused"]
Holds = Literal["anything", "text", "flag", "names", "names or a pattern", "whole numbers", "an object"]


@dataclasses.dataclass(frozen=True)
class Field:
    """One setting.

    Args:
        fate: kept in what is written, harmless to leave out, or refused where it is in effect.
        why: for a setting that is kept, how; for the others, the reason.
        holds: what its value must be; null is always allowed.
        empty_is_on: whether an empty object puts it into effect: PEFT makes a configuration of defaults of it.
    """

    fate: Fate
    why: str
    holds: Holds = "anything"
    empty_is_on: bool = False

    def in_effect(self, value: Any) -> bool:  # Any: a JSON value
        """Whether PEFT would act on the value."""
        return value is not None and value is not False if self.empty_is_on else bool(value)


_START = "only for the start of the training that `init_lora_weights` names"
_WHERE = "where all adapters agree, else all modules are named; factors of other modules are refused"

FIELDS: Mapping[str, Field] = {
    "peft_type": Field("kept", "`LORA`; other kinds are refused", "text"),
    "task_type": Field("kept", "two that differ are refused", "text"),
    "base_model_name_or_path": Field("kept", "two that differ are refused without `--allow-different-bases`", "text"),
    "revision": Field("kept", "as `base_model_name_or_path`", "text"),
    "auto_mapping": Field("kept", "where all adapters agree; it serves the `AutoPeftModel` classes", "an object"),
    "peft_version": Field("harmless", "who wrote the file"),
    "inference_mode": Field("harmless", "whether it was trained last; `true` is written"),
    "r": Field("kept", "the rank of each module, checked against its factors"),
    "lora_alpha": Field("kept", "in the scale of each module"),
    "rank_pattern": Field("kept", "read as PEFT does; written as `^` and the escaped name", "an object"),
    "alpha_pattern": Field("kept", "as `rank_pattern`", "an object"),
    "use_rslora": Field("kept", "in the scale of each module; written as a plain `alpha / r`", "flag"),
    "target_modules": Field("kept", _WHERE, "names or a pattern"),
    "exclude_modules": Field("kept", "as `target_modules`", "names or a pattern"),
    "layers_to_transform": Field("kept", "as `target_modules`", "whole numbers"),
    "layers_pattern": Field("kept", "as `target_modules`", "names or a pattern"),
    "modules_to_save": Field("kept", "the names of all adapters; their tensors are averaged", "names"),
    "lora_dropout": Field("kept", "of the first adapter; training only"),
    "fan_in_fan_out": Field("harmless", "PEFT sets it by the kind of the layer when it loads", "flag"),
    "bias": Field("kept", "biases of the base are averaged; two choices that differ are refused", "text"),
    "lora_bias": Field("kept", "the mean of the scaled biases, exact", "flag"),
    "ensure_weight_tying": Field("kept", "the tied layer follows the embedding; refused where adapters differ", "flag"),
    "init_lora_weights": Field(
        "harmless", "where the start leaves the base alone; PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA and unknown are refused"
    ),
    "loftq_config": Field("harmless", _START),
    "eva_config": Field("harmless", _START),
    "corda_config": Field("harmless", _START),
    "lora_ga_config": Field("harmless", _START),
    "velora_config": Field("harmless", "changes backward passes only; its saved direction is left out"),
    "runtime_config": Field("harmless", "PEFT ignores it in files"),
    "qalora_group_size": Field("harmless", "only with `use_qalora`"),
    "megatron_core": Field("harmless", "only with `megatron_config`"),
    "megatron_config": Field("refused", "LoRA of Megatron's parallel layers may be saved in shards", empty_is_on=True),
    "use_dora": Field("refused", "the update depends on the weights of the base; merge it into its base first"),
    "use_qalora": Field("refused", "inputs are pooled before A"),
    "use_bdlora": Field("refused", "factors are block-diagonal", empty_is_on=True),
    "kasa_config": Field("refused", "the base is changed, and a diagonal stands between A and B", empty_is_on=True),
    "monteclora_config": Field("refused", "weights are sampled around the factors", empty_is_on=True),
    "arrow_config": Field("refused", "a router chooses among adapters for each token", empty_is_on=True),
    "alora_invocation_tokens": Field("refused", "the update begins at certain tokens only"),
    "trainable_token_indices": Field("refused", "single rows of an embedding are replaced"),
    "target_parameters": Field("refused", "LoRA of parameters, as those of experts, has factors of another form"),
    "layer_replication": Field("refused", "the base has other layers than its files"),
}
"""All fields of ``peft.LoraConfig`` (0.21.2); a test compares them."""

LEAVES_THE_BASE = ("gaussian", "eva", "orthogonal", "mica")
"""Values of ``init_lora_weights``, in small letters, that change nothing but the factors; so do true and false."""


def default_in_peft(key: str) -> Any:  # Any: a value of a configuration
    """The default of a setting in the installed PEFT; None where it has no such setting."""
    import peft

    for field in dataclasses.fields(peft.LoraConfig):
        if field.name == key:
            made = field.default_factory
            return field.default if made is dataclasses.MISSING else made()
    return None


def table() -> str:
    """All settings, for the documentation."""
    rows = ["| setting of PEFT | | how, or why |", "|---|---|---|"]
    rows += [f"| `{name}` | {field.fate} | {field.why} |" for name, field in FIELDS.items()]
    return "\n".join(rows)
