"""Names of modules as PEFT's settings match them, and the settings that match exactly the modules meant."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import AdapterError
from polyrank.hf.peft.settings import SETTINGS, Settings, is_number, shown

NO_PATTERN = (re.error, OverflowError, RecursionError)
"""What ``re`` raises for a text that it cannot compile."""


def rank_and_scale(folder: Path, settings: Settings, spellings: Collection[str]) -> tuple[int, float]:
    """What the settings say of one module: its rank, and alpha / rank or alpha / sqrt(rank).

    Keys of the patterns are regular expressions for PEFT, which must match the whole name or its ending; the first
    that does counts.

    Args:
        folder: for errors.
        settings: of the adapter.
        spellings: of the module's name, with and without what wrappers added.

    Raises:
        AdapterError: a value makes no sense, or a pattern tells the spellings apart.
    """
    found = {_rank_and_scale(folder, settings, name) for name in sorted(spellings)}
    if len(found) > 1:
        raise AdapterError(
            f"{folder / SETTINGS}: rank_pattern or alpha_pattern tell {' and '.join(sorted(spellings))} apart, which "
            "are one module; expected patterns of the name without what wrappers add"
        )
    return found.pop()


def _rank_and_scale(folder: Path, settings: Settings, name: str) -> tuple[int, float]:
    rank = _pattern(folder, settings, "rank_pattern", name, settings.get("r", 8))
    alpha = _pattern(folder, settings, "alpha_pattern", name, settings.get("lora_alpha", 8))
    if not (isinstance(rank, int) and is_number(rank) and rank > 0 and is_number(alpha)):
        raise AdapterError(
            f"{folder / SETTINGS}: r is {shown(rank)} and lora_alpha {shown(alpha)} for {name}; expected numbers "
            "above 0"
        )
    return rank, alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _pattern(folder: Path, settings: Settings, which: str, name: str, default: Any) -> Any:  # Any: JSON values
    patterns = settings.get(which) or {}
    if not patterns:
        return default
    from peft.utils.other import get_pattern_key

    try:
        return patterns.get(get_pattern_key(list(patterns), name), default)
    except NO_PATTERN as error:
        raise AdapterError(f"{folder / SETTINGS}: a name in {which} is no regular expression: {error}") from None


def targeted(folder: Path, settings: Settings, name: str) -> bool:
    """Whether PEFT gives the module LoRA: by target modules, in the layers that are named, if it is not left out.

    Left out are the excluded modules, and those that are saved whole, with what lies in them.

    Raises:
        AdapterError: a setting is no regular expression.
    """
    from peft.tuners.tuners_utils import _ExcludedModule, check_target_module_exists
    from peft.utils.constants import INCLUDE_LINEAR_LAYERS_SHORTHAND

    where = ("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern")
    given = {key: settings.get(key) for key in where}
    if given["target_modules"] in (None, INCLUDE_LINEAR_LAYERS_SHORTHAND):  # the base decides
        return True
    try:
        found = check_target_module_exists(SimpleNamespace(**given, target_parameters=None), name)
    except NO_PATTERN as error:
        raise AdapterError(f"{folder / SETTINGS}: the target modules hold no regular expression: {error}") from None
    return bool(found) and not isinstance(found, _ExcludedModule)


def exact(name: str) -> str:
    r"""The key of ``rank_pattern`` and ``alpha_pattern`` that matches this module and no other.

    >>> exact("fc.0")
    '^fc\\.0'
    """
    return f"^{re.escape(name)}"


def exact_targets(names: Iterable[str]) -> str:
    r"""The ``target_modules`` that match these modules and no others; names in a list would match endings, too.

    >>> exact_targets(["fc.0", "query"])
    'fc\\.0|query'
    """
    return "|".join(re.escape(name) for name in sorted(names))


def rank_settings(adapter: Adapter) -> dict[str, Any]:
    """``r``, ``lora_alpha`` and what differs from them, so that PEFT computes every module's rank and scale."""
    ranks = {name: factors.rank for name, factors in adapter.modules.items()}
    alphas = {name: alpha_of(factors) for name, factors in adapter.modules.items()}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {exact(name): r for name, r in ranks.items() if r != rank},
        "alpha_pattern": {exact(name): a for name, a in alphas.items() if a != alpha},
        "use_rslora": False,
    }


def alpha_of(factors: Factors) -> float:
    """The alpha that, divided by the rank, gives the scale back: to the last bit, where there is such a number."""
    near = factors.scale * factors.rank
    candidates = (round(near, 9), near, math.nextafter(near, math.inf), math.nextafter(near, -math.inf))
    return next((alpha for alpha in candidates if alpha / factors.rank == factors.scale), near)


def same_value(key: str, left: Any, right: Any) -> bool:  # Any: JSON values
    """Whether PEFT reads two values of a setting that says where LoRA is in the same way.

    Names in a list have no order (but for ``layers_pattern``, whose first match counts), one number is a list of one,
    and an empty list is none.
    """

    def plain(value: Any) -> Any:
        if key == "layers_pattern":
            return [value] if isinstance(value, str) and value else value or None
        if isinstance(value, int):
            value = [value]
        return frozenset(value) if isinstance(value, list) and value else value or None

    return bool(plain(left) == plain(right))
