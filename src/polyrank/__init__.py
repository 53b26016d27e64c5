"""PolyRank: federated LoRA fine-tuning of language models in which every client has a rank of its own.

Names are imported when they are used, so that ``import polyrank`` and the command line's help stay quick.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from polyrank.core import kernels, threads

if TYPE_CHECKING:
    from polyrank.aggregation import METHODS
    from polyrank.aggregation import build as method
    from polyrank.config import Config
    from polyrank.config import load as load_config
    from polyrank.core.adapter import Adapter, Factors
    from polyrank.core.errors import PolyRankError
    from polyrank.core.state import ClientUpdate, ServerState
    from polyrank.hf.peft.folder import base_model
    from polyrank.merging.merge import merge
    from polyrank.runs.listener import Listener
    from polyrank.runs.runner import run

threads.settle()  # before torch is loaded
kernels.settle()

__version__ = metadata.version("polyrank")

_PLACES = {
    "Adapter": "polyrank.core.adapter:Adapter",
    "Factors": "polyrank.core.adapter:Factors",
    "METHODS": "polyrank.aggregation:METHODS",
    "method": "polyrank.aggregation:build",
    "Config": "polyrank.config:Config",
    "load_config": "polyrank.config:load",
    "PolyRankError": "polyrank.core.errors:PolyRankError",
    "Listener": "polyrank.runs.listener:Listener",
    "run": "polyrank.runs.runner:run",
    "base_model": "polyrank.hf.peft.folder:base_model",
    "merge": "polyrank.merging.merge:merge",
    "ClientUpdate": "polyrank.core.state:ClientUpdate",
    "ServerState": "polyrank.core.state:ServerState",
}

__all__ = [
    "METHODS",
    "Adapter",
    "ClientUpdate",
    "Config",
    "Factors",
    "Listener",
    "PolyRankError",
    "ServerState",
    "base_model",
    "load_config",
    "merge",
    "method",
    "run",
]


def __getattr__(name: str) -> Any:  # Any: classes and functions alike
    if name not in _PLACES:
        raise AttributeError(f"module 'polyrank' has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    return getattr(import_module(module), attribute)
