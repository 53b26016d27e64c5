"""The quickstart: a small data set and a small backbone that need no download.

`stdlib_docs` reads the docstrings of the user's own Python, labelled by topic; `backbone/` holds a BERT of 1.8 million
parameters that was distilled from all-MiniLM-L6-v2 and has really learned language, so that LoRA has something to
adapt and a federation learns in seconds a round on two cores. `tools/distill.py` in the repository made
it, `tools/probes.py` measures it.
"""

from __future__ import annotations

from pathlib import Path


def backbone_path() -> Path:
    """The folder of the embedded backbone, to be given to `from_pretrained`."""
    return Path(__file__).parent / "backbone"


def decoder_path() -> Path:
    """The folder of the embedded decoder."""
    return Path(__file__).parent / "decoder"
