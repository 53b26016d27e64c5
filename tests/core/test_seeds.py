from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyrank.core.seeds import derive, numpy_generator, seeded, torch_generator

_paths = st.lists(st.integers(-5, 100) | st.text("ab1:-", max_size=3), max_size=4)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 3), _paths, st.integers(0, 3), _paths)
def test_paths_give_equal_seeds_if_and_only_if_they_are_equal(
    seed: int, path: list[str | int], seed_2: int, path_2: list[str | int]
):
    assert (derive(seed, *path) == derive(seed_2, *path_2)) == ((seed, path) == (seed_2, path_2))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((0, 1), (0, "1")),
        ((0, "a", "b"), (0, "ab")),
        ((0, "a", "b"), (0, "b", "a")),
        ((0, 1, 12), (0, 11, 2)),
        ((0, ""), (0,)),
        ((0, 1), (1, 0)),
    ],
)
def test_paths_that_look_alike(one: tuple[int, str | int], other: tuple[int, str | int]):
    assert derive(*one) != derive(*other)


def test_numpys_numbers_and_strings_are_the_same_path():
    """A client that was drawn with numpy has its number as np.int64 or its name as np.str_."""
    assert derive(np.int64(3), np.str_("client"), np.int32(7)) == derive(3, "client", 7)


def test_a_fraction_is_no_path():
    with pytest.raises(TypeError):
        derive(0, 1.5)  # type: ignore[arg-type]  # what is tested


@settings(deadline=None, max_examples=50)
@given(st.integers(), _paths)
def test_seeds_are_of_63_bits(seed: int, path: list[str | int]):
    """torch's manual_seed and numpy's default_rng both take them."""
    assert 0 <= derive(seed, *path) < 2**63
    torch_generator(seed, *path)
    numpy_generator(seed, *path)


def test_seeds_do_not_depend_on_the_process():
    """Python's hash() of a string is another one in every process; ours is not made of it."""
    code = "from polyrank.core.seeds import derive; print(derive(5, 'sampling', 3))"
    command = [sys.executable, "-c", code]
    path = [p for p in sys.path if p]
    for salt in ("1", "2"):
        environment = {"PYTHONHASHSEED": salt, "PYTHONPATH": ":".join(path)}
        result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        assert int(result.stdout) == derive(5, "sampling", 3)


def test_generators_repeat_and_differ_by_path():
    for make in (torch_generator, numpy_generator):

        def draw(*path: str | int, make=make) -> list[float]:
            generator = make(0, *path)
            if isinstance(generator, torch.Generator):
                return torch.rand(4, generator=generator).tolist()
            return generator.random(4).tolist()

        assert draw("sampling", 1) == draw("sampling", 1)
        assert draw("sampling", 1) != draw("sampling", 2)
        assert draw("sampling", 1) != draw("split", 1)


def test_global_generators_are_left_alone():
    python, numpy, torch_state = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    torch.rand(3, generator=torch_generator(0, "a"))
    numpy_generator(0, "a").random(3)
    assert random.getstate() == python
    assert (np.random.get_state()[1] == numpy).all()
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_libraries_draw_from_the_seed_inside_and_from_where_they_were_afterwards():
    """Inside it is torch's own stream of that seed, whatever was drawn before."""

    def drawn(seed: int) -> torch.Tensor:
        with seeded(seed):
            return torch.rand(4)

    expected = torch.rand(4, generator=torch.Generator().manual_seed(7))
    before = torch.get_rng_state()
    assert torch.equal(drawn(7), expected)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(drawn(7), expected)
    assert not torch.equal(drawn(8), expected)
