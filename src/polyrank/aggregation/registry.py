"""Every aggregation method, by name. A new one costs its file and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from polyrank.aggregation.align import Aligned, Alignment
from polyrank.aggregation.method import Method
from polyrank.aggregation.methods.fed_plora import FedPLoRA
from polyrank.aggregation.methods.fedavg import FedAvg
from polyrank.aggregation.methods.fedex import FedEx
from polyrank.aggregation.methods.fedhl import FedHL
from polyrank.aggregation.methods.fedsa import FedSA
from polyrank.aggregation.methods.fedsvd import FedSVD
from polyrank.aggregation.methods.ffa import FFA
from polyrank.aggregation.methods.flexlora import FlexLoRA
from polyrank.aggregation.methods.flora import Flora
from polyrank.aggregation.methods.florist import Florist
from polyrank.aggregation.methods.fslora import FSLoRA
from polyrank.aggregation.methods.hetlora import HetLoRA
from polyrank.aggregation.methods.lora_a2 import LoRAA2
from polyrank.aggregation.methods.lora_fair import LoraFair
from polyrank.aggregation.methods.owner_mean import OwnerMean
from polyrank.aggregation.methods.raflora import RaFlora
from polyrank.aggregation.methods.rb_lora import RBLoRA
from polyrank.aggregation.methods.replication import Replication
from polyrank.aggregation.methods.rolora import RoLoRA
from polyrank.aggregation.methods.shrinkage import Shrinkage
from polyrank.aggregation.methods.spectral import Spectral
from polyrank.aggregation.methods.tempered import Tempered
from polyrank.aggregation.methods.validated import Validated
from polyrank.aggregation.methods.zero_padding import ZeroPadding
from polyrank.aggregation.methods.zero_padding_delta import ZeroPaddingDelta
from polyrank.aggregation.optimised.wrapper import optimised
from polyrank.aggregation.robust.registry import NO_RULE, RULES
from polyrank.aggregation.robust.rule import Rule
from polyrank.aggregation.robust.wrapper import Robust
from polyrank.config import AggregationConfig
from polyrank.core.errors import ConfigError
from polyrank.core.registry import Registry, checked

_CLASSES: tuple[type[Method], ...] = (
    FedAvg,
    ZeroPadding,
    ZeroPaddingDelta,
    HetLoRA,
    Replication,
    OwnerMean,
    Tempered,
    Shrinkage,
    Validated,
    RBLoRA,
    FSLoRA,
    FedPLoRA,
    Flora,
    FlexLoRA,
    RaFlora,
    Spectral,
    Florist,
    FedHL,
    FedEx,
    LoraFair,
    FFA,
    RoLoRA,
    LoRAA2,
    FedSA,
    FedSVD,
)

METHODS: Registry[Method] = Registry(
    "aggregation method",
    {cls.info.name: cls for cls in _CLASSES},
    group="polyrank.methods",
    base=Method,
    name_of=lambda cls: cls.info.name,
)


def options(name: str) -> dict[str, str]:
    """Options of a method and their types; ``align`` where it can be aligned.

    Raises:
        ConfigError: there is no such method.
    """
    return METHODS.options(name) | ({"align": "Alignment"} if METHODS[name].info.aligns else {})


def configured(config: AggregationConfig, hidden: Callable[[Method], Method] | None = None) -> Method:
    """The method that a configuration names.

    Args:
        config: names it, and what is around it.
        hidden: puts privacy around the method; a server optimiser steps along what comes of that.

    Raises:
        ConfigError: as `build` and `optimised`, or the robust rule is unknown or cannot wrap the method, or has options
            and is none.
    """
    if config.robust == NO_RULE and config.robust_options:
        raise ConfigError(
            f"aggregation.robust_options: found {config.robust_options} and aggregation.robust is {NO_RULE}; "
            f"expected a rule, one of {', '.join(RULES)}, or no options"
        )
    rule = None if config.robust == NO_RULE else RULES.build(config.robust, config.robust_options)
    method = build(config.method, config.options, rule)
    return optimised(hidden(method) if hidden else method, config)


# Any: option values as read from TOML
def build(name: str, values: Mapping[str, Any] | None = None, rule: Rule | None = None) -> Method:
    """The method ``name`` with its options.

    Args:
        name: of the method.
        values: its options.
        rule: what the clients' updates go through; after they are aligned, where they are.

    Raises:
        ConfigError: the name, an option or an option's value is unknown; the message names the nearest known one. Or
            the rule cannot wrap the method.
    """
    own = dict(values or {})
    METHODS.check(name, own, options(name))
    align: Alignment = "none"
    if "align" in own:
        # a Literal is no class, which is what `checked` is typed for
        align = checked(f"aggregation method {name}", Alignment, own.pop("align"), "align")  # type: ignore[arg-type]
    chosen = METHODS.build(name, own)
    if rule is not None:
        chosen = Robust(chosen, rule)  # type: ignore[arg-type]  # it refuses a method without rows
    return chosen if align == "none" else Aligned(chosen, align)
