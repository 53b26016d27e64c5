"""Precision and attention: which are worth a trial, and the base in each of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from polyrank.config import TrainingConfig
from polyrank.core.errors import ModelError
from polyrank.hf.resident import ResidentModel
from polyrank.training.tuning import forms
from polyrank.training.tuning.forms import Bases, Form
from tests.models import Checkpoints, resident

ALL = [("bfloat16", "eager"), ("bfloat16", "sdpa"), ("float32", "sdpa"), ("float32", "eager")]
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="what holds on a CPU")


class Loader:
    """Loads as a federation does, and keeps count."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loaded: list[torch.dtype] = []

    def __call__(self, dtype: torch.dtype, attention: str) -> ResidentModel:
        self.loaded.append(dtype)
        return resident(self.folder, head="model", dtype=dtype, attention=attention)


@pytest.fixture
def gain(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Prescribe how much faster products are in bfloat16."""

    def prescribe(times: float) -> None:
        monkeypatch.setattr(forms, "gflops", lambda dtype: times if dtype == torch.bfloat16 else 1.0)

    return prescribe


def names(bases: Bases) -> list[tuple[str, str]]:
    return [(form.precision, form.attention) for form in bases.forms]


@pytest.mark.parametrize(("precision", "attention"), ALL)
def test_a_fixed_form_is_the_only_one(
    checkpoint: Checkpoints, monkeypatch: pytest.MonkeyPatch, precision: str, attention: str
):
    """Nothing is measured for it, and one base is loaded."""
    monkeypatch.setattr(forms, "gflops", None)
    load = Loader(checkpoint("bert"))
    bases = Bases(load, TrainingConfig(precision=precision, attention=attention))
    base = bases.base(Form(precision, attention))
    assert names(bases) == [(precision, attention)]
    assert (base.dtype, base.model.config._attn_implementation) == (forms.DTYPES[precision], attention)
    assert len(load.loaded) == 1


@pytest.mark.parametrize(
    ("times", "precisions"),
    [(0.9, ["float32"]), (1.1, ["bfloat16", "float32"]), (2.9, ["bfloat16", "float32"]), (7.0, ["bfloat16"])],
)
def test_rates_of_products_say_what_is_worth_a_trial(
    checkpoint: Checkpoints, gain: Callable[[float], None], times: float, precisions: list[str]
):
    """Neither bfloat16 where it is emulated, nor float32 beside a matrix unit that it cannot use."""
    gain(times)
    load = Loader(checkpoint("bert"))
    bases = Bases(load, TrainingConfig())
    assert names(bases) == [one for one in ALL if one[0] in precisions]
    assert load.loaded == [forms.DTYPES[name] for name in precisions]


def test_only_what_is_open(checkpoint: Checkpoints, gain: Callable[[float], None]):
    gain(2.0)
    load = Loader(checkpoint("bert"))
    assert names(Bases(load, TrainingConfig(precision="float32"))) == ALL[2:]
    assert names(Bases(load, TrainingConfig(attention="sdpa"))) == ALL[1:3]


def test_a_base_takes_the_form_that_is_asked_for(checkpoint: Checkpoints, gain: Callable[[float], None]):
    """Whatever it was before; one base for each precision."""
    gain(2.0)
    bases = Bases(Loader(checkpoint("bert")), TrainingConfig())
    for form in [*bases.forms, *reversed(bases.forms)]:
        base = bases.base(form)
        assert base.dtype == forms.DTYPES[form.precision]
        assert base.model.config._attn_implementation == form.attention
    assert len({id(bases.base(form)) for form in bases.forms}) == 2


def test_an_architecture_without_sdpa(checkpoint: Checkpoints, gain: Callable[[float], None]):
    """Where the choice is open, eager is taken; where sdpa is asked for, the error says so."""
    gain(2.0)
    load = Loader(checkpoint("deberta-v2"))
    assert names(Bases(load, TrainingConfig())) == [("bfloat16", "eager"), ("float32", "eager")]
    for options in (TrainingConfig(attention="sdpa"), TrainingConfig(attention="sdpa", precision="float32")):
        with pytest.raises(ModelError, match="scaled_dot_product_attention"):
            Bases(load, options)


def test_a_base_that_fits_once_is_loaded_once(
    checkpoint: Checkpoints, gain: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
):
    """In the likelier precision."""
    gain(2.0)
    load = Loader(checkpoint("bert"))
    monkeypatch.setattr(forms, "free_memory", lambda _: 1000)
    assert names(Bases(load, TrainingConfig())) == ALL[:2]
    assert load.loaded == [torch.bfloat16]
