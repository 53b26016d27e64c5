"""Every aggregation method, by name. A new one costs its file and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from polyrank.aggregation.align import Aligned, Alignment
from polyrank.aggregation.method import Method, options
from polyrank.aggregation.methods.fedavg import FedAvg
from polyrank.aggregation.methods.fedex import FedEx
from polyrank.aggregation.methods.fedhl import FedHL
from polyrank.aggregation.methods.fedsa import FedSA
from polyrank.aggregation.methods.fedsvd import FedSVD
from polyrank.aggregation.methods.ffa import FFA
from polyrank.aggregation.methods.flexlora import FlexLoRA
from polyrank.aggregation.methods.flora import Flora
from polyrank.aggregation.methods.florist import Florist
from polyrank.aggregation.methods.hetlora import HetLoRA
from polyrank.aggregation.methods.lora_fair import LoraFair
from polyrank.aggregation.methods.owner_mean import OwnerMean
from polyrank.aggregation.methods.raflora import RaFlora
from polyrank.aggregation.methods.replication import Replication
from polyrank.aggregation.methods.rolora import RoLoRA
from polyrank.aggregation.methods.shrinkage import Shrinkage
from polyrank.aggregation.methods.tempered import Tempered
from polyrank.aggregation.methods.zero_padding import ZeroPadding
from polyrank.aggregation.methods.zero_padding_delta import ZeroPaddingDelta
from polyrank.errors import ConfigError, did_you_mean

_CLASSES: tuple[type[Method], ...] = (
    FedAvg,
    ZeroPadding,
    ZeroPaddingDelta,
    HetLoRA,
    Replication,
    OwnerMean,
    Tempered,
    Shrinkage,
    Flora,
    FlexLoRA,
    RaFlora,
    Florist,
    FedHL,
    FedEx,
    LoraFair,
    FFA,
    RoLoRA,
    FedSA,
    FedSVD,
)

METHODS: Mapping[str, type[Method]] = {cls.info.name: cls for cls in _CLASSES}


def build(name: str, values: Mapping[str, Any] | None = None) -> Method:  # Any: option values as read from TOML
    """The method ``name`` with its options.

    Raises:
        ConfigError: the name, an option or an option's value is unknown; the message names the nearest known one.
    """
    cls = METHODS.get(name)
    if cls is None:
        raise ConfigError(f"there is no aggregation method {name!r}: {did_you_mean(name, METHODS)}")
    known = options(cls)
    for key in values or {}:
        if key not in known:
            hint = did_you_mean(key, known) if known else "it has no options"
            raise ConfigError(f"aggregation method {name} has no option {key!r}: {hint}")
    own = dict(values or {})
    align: Alignment = _checked(name, Alignment, own.pop("align", "none"), "align")
    chosen: Method = _checked(name, cls, own)
    return chosen if align == "none" else Aligned(chosen, align)


def _checked(name: str, kind: Any, value: Any, option: str = "") -> Any:  # Any: whatever pydantic can check
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = option or ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"aggregation method {name}, option {where}: found {first['input']!r}; {first['msg']}"
        ) from None
