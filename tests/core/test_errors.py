from __future__ import annotations

import pickle

import pytest

from polyrank.core import errors
from polyrank.core.errors import PolyRankError, did_you_mean

KINDS = [
    *(errors.ConfigError, errors.DataError, errors.ModelError, errors.AdapterError, errors.RunFolderError),
    *(errors.WorkerError, errors.SiteError),
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_caught_as_a_polyrank_error_and_by_no_other(kind: type[PolyRankError]):
    with pytest.raises(PolyRankError, match="found 3"):
        raise kind("found 3")
    assert not issubclass(kind, ValueError | KeyError | OSError)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_can_be_sent_from_process_to_process(kind: type[PolyRankError]):
    again = pickle.loads(pickle.dumps(kind("found 3")))
    assert (type(again), str(again)) == (kind, "found 3")


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_has_an_end(kind: type[PolyRankError]):
    """Names in a file may have any length, and errors quote them; begin and end say where it was and what to do."""
    said = str(kind("begin " + "x" * 10**6 + " end"))
    assert len(said) < 4000
    assert said.startswith("begin xxx")
    assert said.endswith("xxx end")
    assert str(kind("y" * 4000)) == "y" * 4000


def test_kinds_are_told_apart():
    assert not any(issubclass(one, other) for one in KINDS for other in KINDS if one is not other)


@pytest.mark.parametrize(
    ("found", "known", "sentence"),
    [
        ("fedavgg", ["fedavg", "fedprox"], "did you mean 'fedavg'?"),
        ("zero_paddingdelta", ["zero_padding", "zero_padding_delta"], "did you mean 'zero_padding_delta'?"),
        ("qqq", ["b", "a"], "known: a, b"),
        ("", ["b", "a"], "known: a, b"),
        ("x", iter(["b", "a"]), "known: a, b"),
        ("a", {"aa": 1}, "did you mean 'aa'?"),
    ],
)
def test_did_you_mean(found: str, known: list[str], sentence: str):
    assert did_you_mean(found, known) == sentence
