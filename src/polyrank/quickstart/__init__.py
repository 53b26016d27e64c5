"""The quickstarts: small data sets and small models that need no download.

`stdlib_docs` reads the docstrings of the user's own Python, labelled by topic; `backbone/` holds a BERT of 1.8 million
parameters that was distilled from all-MiniLM-L6-v2 and has really learned language, so that LoRA has something to
adapt and a federation learns in seconds a round on two cores. `tools/distill.py` in the repository made
it, `tools/probes.py` measures it.

`stdlib_signatures` reads signatures with their docstrings, for models that write; `decoder/` holds a Llama of 2.2
million parameters that has read Python without its docstrings, and English. `tools/pretrain.py` made it,
`tools/docstring_probe.py` measures it.
"""

from __future__ import annotations

from pathlib import Path

from polyrank.core.errors import ConfigError, did_you_mean

QUICKSTARTS = ("classification", "generative")


def backbone_path() -> Path:
    """The folder of the embedded backbone, to be given to `from_pretrained`."""
    return Path(__file__).parent / "backbone"


def config_path(name: str) -> Path | None:
    """The configuration of a quickstart; None for the first one, which is the default of every value.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in QUICKSTARTS:
        raise ConfigError(f"--quickstart {name}: {did_you_mean(name, QUICKSTARTS)}")
    return None if name == QUICKSTARTS[0] else Path(__file__).parent / f"{name}.toml"


def decoder_path() -> Path:
    """The folder of the embedded model that writes, to be given to `from_pretrained`."""
    return Path(__file__).parent / "decoder"
