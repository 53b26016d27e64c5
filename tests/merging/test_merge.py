from __future__ import annotations

import json
import logging
import math
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import polyrank
from polyrank.aggregation import METHODS, build
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import AdapterError, ConfigError
from polyrank.core.state import ClientUpdate, ServerState
from polyrank.hf.peft import folder as peft_folder
from polyrank.hf.peft.file import AdapterFile
from polyrank.merging.merge import merge
from polyrank.merging.result import Loss, Merged
from tests.conformance.fixtures import conclude
from tests.merging.folders import SHAPES, best, deltas, edit, mean_of, replace_tensors, tensors_of, write

WEIGHTS = [3.0, 1.0, 2.0]
QUERY = "encoder.layer.0.query"


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """Ranks, alphas and kinds of scaling that all differ; one with a rank of its own in one module."""
    return [
        write(tmp_path / "a", {**dict.fromkeys(SHAPES, 1), QUERY: 3}, alpha=4, seed=1),
        write(tmp_path / "b", 4, alpha=2, seed=2, use_rslora=True),
        write(tmp_path / "c", 2, alpha=16, seed=3, alpha_pattern={QUERY: 5}),
    ]


def agree(merged: Merged, expected: dict[str, np.ndarray], tolerance: float = 1e-5) -> None:
    assert merged.adapter.modules.keys() == expected.keys()
    for name, matrix in expected.items():
        found = merged.adapter.modules[name].delta().double().numpy()
        np.testing.assert_allclose(found, matrix, rtol=0, atol=tolerance * np.abs(matrix).max())


def owners_mean(folders: Sequence[Path], weights: Sequence[float]) -> dict[str, np.ndarray]:
    """Every row of A and column of s B over the adapters that hold it, by loops."""
    out = {}
    scaled = []
    for folder in folders:
        tensors, whole = tensors_of(folder), deltas(folder)
        for name in SHAPES:
            a, b = (tensors[f"{name}.lora_{x}.weight"].double().numpy() for x in "AB")
            scaled.append((name, a, b * np.linalg.norm(whole[name]) / np.linalg.norm(b @ a)))
    for name, (d_out, d_in) in SHAPES.items():
        mine = [
            (w, a, b) for w, (each, a, b) in zip(np.repeat(weights, len(SHAPES)), scaled, strict=True) if each == name
        ]
        total = np.zeros((d_out, d_in))
        for j in range(max(len(a) for _, a, _ in mine)):
            owners = [(w, a[j], b[:, j]) for w, a, b in mine if len(a) > j]
            weight = sum(w for w, _, _ in owners)
            row = sum(w * x for w, x, _ in owners) / weight
            total += np.outer(sum(w * y for w, _, y in owners) / weight, row)
        out[name] = total
    return out


def test_flexlora_is_the_best_approximation_of_the_weighted_mean(three: list[Path]):
    """The rank is the highest input rank of each module, here 4 everywhere."""
    merged = merge(three, WEIGHTS)
    mean = mean_of(three, WEIGHTS)
    assert merged.method == "flexlora"
    assert {f.rank for f in merged.adapter.modules.values()} == {4}
    agree(merged, {name: best(matrix, 4) for name, matrix in mean.items()})
    for name, matrix in mean.items():
        dropped = np.linalg.svd(matrix, compute_uv=False)[4:]
        assert merged.losses[name].error == pytest.approx(np.linalg.norm(dropped) / np.linalg.norm(matrix), rel=1e-4)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_flexlora_at_a_chosen_rank(three: list[Path], rank: int):
    """Below the highest input rank and above it."""
    merged = merge(three, WEIGHTS, rank=rank)
    assert {f.rank for f in merged.adapter.modules.values()} == {rank}
    agree(merged, {name: best(matrix, rank) for name, matrix in mean_of(three, WEIGHTS).items()})


@pytest.mark.parametrize("method", ["flora", "fedex"])
def test_methods_that_stack_are_exact(three: list[Path], method: str):
    """Ranks add up: 1 + 4 + 2 = 7, and 3 + 4 + 2 = 9 for the wide query, of which its 7 outputs can use 7."""
    merged = merge(three, WEIGHTS, method=method)
    agree(merged, mean_of(three, WEIGHTS))
    assert merged.error < 1e-5
    assert {f.rank for f in merged.adapter.modules.values()} == {7}
    cut = merge(three, WEIGHTS, method=method, rank=2)
    agree(cut, {name: best(matrix, 2) for name, matrix in mean_of(three, WEIGHTS).items()})


def test_florist_keeps_a_share_of_the_energy(three: list[Path]):
    merged = merge(three, WEIGHTS, method="florist", options={"tau": 0.9})
    for name, matrix in mean_of(three, WEIGHTS).items():
        energy = np.linalg.svd(matrix, compute_uv=False) ** 2
        rank = int(np.argmax(np.cumsum(energy) >= 0.9 * energy.sum())) + 1
        assert merged.adapter.modules[name].rank == rank
        assert merged.losses[name].error ** 2 <= 0.1
    agree(merge(three, WEIGHTS, method="florist", options={"tau": 1.0}), mean_of(three, WEIGHTS))


@pytest.mark.parametrize(("method", "options"), [("owner_mean", {}), ("replication", {"donor": "owners"})])
def test_rows_are_averaged_over_their_owners(three: list[Path], method: str, options: dict[str, Any]):
    expected = owners_mean(three, WEIGHTS)
    agree(merge(three, WEIGHTS, method=method, options=options), expected)
    agree(merge(three, WEIGHTS, method=method, options=options, rank=2), {n: best(m, 2) for n, m in expected.items()})
    wide = merge(three, WEIGHTS, method=method, options=options, rank=6)
    agree(wide, expected)
    assert {f.rank for f in wide.adapter.modules.values()} == {6}


def test_replication_fills_with_the_rows_of_the_highest_rank(tmp_path: Path):
    """Two rank levels, where it is the owners' mean; the error is measured against the mean of the products."""
    folders = [write(tmp_path / "a", 1, seed=1), write(tmp_path / "b", 3, seed=2)]
    merged = merge(folders, [3, 1], method="replication")
    agree(merged, owners_mean(folders, [3, 1]))
    mean = mean_of(folders, [3, 1])
    gaps = {name: np.linalg.norm(merged.adapter.modules[name].delta().numpy() - mean[name]) for name in mean}
    whole = math.hypot(*gaps.values()) / math.hypot(*map(np.linalg.norm, mean.values()))
    assert merged.error == pytest.approx(whole, rel=1e-5)
    assert merged.losses[QUERY].error == pytest.approx(gaps[QUERY] / np.linalg.norm(mean[QUERY]), rel=1e-5)


MERGING = [name for name, cls in METHODS.items() if cls.info.merges]


@pytest.mark.parametrize("method", MERGING)
def test_every_method_does_what_it_does_on_whole_adapters(tmp_path: Path, method: str):
    """One round from zero on adapters in memory: hetlora's weights depend on all modules."""
    ranks = (2, 2) if METHODS[method].info.equal_ranks else (1, 3)
    folders = [write(tmp_path / str(i), rank, seed=i, alpha=2 * rank) for i, rank in enumerate(ranks)]
    weights = None if method == "hetlora" else [3.0, 1.0]
    merged = merge(folders, weights, method=method)
    adapters = [peft_folder.read(folder) for folder in folders]
    start = {
        n: Factors(torch.zeros(max(ranks), d_in), torch.zeros(d_out, max(ranks)), 2.0)
        for n, (d_out, d_in) in SHAPES.items()
    }
    updates = [ClientUpdate(str(i), adapter, (weights or [1.0, 1.0])[i]) for i, adapter in enumerate(adapters)]
    result = conclude(build(method), ServerState(0, Adapter(start), {}, {}), updates)
    for name, factors in merged.adapter.modules.items():
        expected = result.adapter.modules[name].delta()
        if result.base_change:
            expected = expected + result.base_change.modules[name].delta()
        torch.testing.assert_close(factors.delta(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", [name for name in METHODS if name not in MERGING])
def test_methods_of_one_federation_do_not_merge(three: list[Path], method: str):
    with pytest.raises(ConfigError, match=rf"{method} cannot merge.*flexlora"):
        merge(three, method=method)


@pytest.mark.parametrize("method", MERGING)
def test_one_adapter_is_itself(tmp_path: Path, method: str):
    folder = write(tmp_path / "a", 3, alpha=4)
    options = {"tau": 1.0} if method == "florist" else {}
    merged = merge([folder], method=method, options=options)
    agree(merged, deltas(folder), 2e-2 if method == "lora_fair" else 1e-5)  # a ridge keeps B near its mean


def test_weights_are_shares_and_order_does_not_matter(three: list[Path]):
    one = merge(three, WEIGHTS, method="owner_mean")
    assert merge(three[::-1], WEIGHTS[::-1], method="owner_mean").adapter.identical(one.adapter)
    agree(
        merge(three, [30, 10, 20], method="owner_mean"),
        {n: f.delta().double().numpy() for n, f in one.adapter.modules.items()},
    )
    agree(merge(three, rank=6), {n: best(m, 6) for n, m in mean_of(three, [1, 1, 1]).items()})


def test_an_adapter_of_weight_zero_changes_nothing(three: list[Path]):
    """Not even the rank."""
    merged = merge(three, [1, 0, 1])
    agree(merged, {n: best(m, 3 if n == QUERY else 2) for n, m in mean_of([three[0], three[2]], [1, 1]).items()})
    assert merged.adapter.modules[QUERY].rank == 3
    assert merged.adapter.modules["encoder.layer.1.query"].rank == 2


def test_the_same_adapter_twice_is_itself(tmp_path: Path):
    folder = write(tmp_path / "a", 3)
    agree(merge([folder, folder], [1, 3]), deltas(folder))


def test_missing_modules_are_averaged_over_those_who_have_them(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    half = [name for name in SHAPES if "query" in name]
    folders = [write(tmp_path / "a", 2, seed=1), write(tmp_path / "b", dict.fromkeys(half, 2), seed=2)]
    with caplog.at_level(logging.WARNING):
        merged = merge(folders, [1, 3], method="flora")
    agree(merged, mean_of(folders, [1, 3]))
    assert "encoder.layer.0.dense, encoder.layer.1.dense" in caplog.text
    assert "/b lacks" in caplog.text
    assert list(merged.lacking.values()) == [("encoder.layer.0.dense", "encoder.layer.1.dense")]


def test_heads_are_averaged_and_named_where_they_are_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    head = {"classifier.weight": (3, 4), "classifier.bias": (3,)}
    folders = [
        write(tmp_path / "a", seed=1, dense=head),
        write(tmp_path / "b", seed=2, dense=head),
        write(tmp_path / "c", seed=3),
    ]
    merged = merge(folders, [3, 1, 4], method="owner_mean")
    for name in head:
        expected = 0.75 * tensors_of(folders[0])[name] + 0.25 * tensors_of(folders[1])[name]
        torch.testing.assert_close(merged.adapter.dense[name], expected)
    assert "classifier.bias, classifier.weight" in caplog.text
    merged.save(tmp_path / "out")
    assert json.loads((tmp_path / "out/adapter_config.json").read_text())["modules_to_save"] == ["classifier"]


def test_groups_are_kinds_of_layers(three: list[Path]):
    """Norms of a group add up in squares: gaps 3 and 4 over sizes 6 and 8 are 5 / 10."""
    merged = merge(three)
    assert merged.groups() == {
        "dense": ["encoder.layer.0.dense", "encoder.layer.1.dense"],
        "query": ["encoder.layer.0.query", "encoder.layer.1.query"],
    }
    assert Loss.together([Loss(3, 6), Loss(4, 8)]).error == 0.5
    assert (Loss(0, 0).error, Loss(1, 0).error) == (0.0, math.inf)
    assert repr(merged).startswith("Merged(flexlora: 4 modules, rank 4, aggregation error 0.")


@pytest.mark.parametrize(
    ("given", "asked", "written"),
    [
        ((torch.bfloat16, torch.bfloat16), None, torch.bfloat16),
        ((torch.bfloat16, torch.float16), None, torch.float32),
        ((torch.float16, torch.float64), None, torch.float64),
        ((torch.bfloat16, torch.bfloat16), "float32", torch.float32),
        ((torch.float32, torch.float32), "float16", torch.float16),
    ],
)
@pytest.mark.parametrize("method", ["flexlora", "owner_mean", "flora"])
def test_dtypes(tmp_path: Path, method: str, given: tuple[torch.dtype, ...], asked: str | None, written: torch.dtype):
    folders = [write(tmp_path / str(i), 2, seed=i, dtype=dtype) for i, dtype in enumerate(given)]
    merge(folders, method=method, dtype=asked).save(tmp_path / "out")
    assert {tensor.dtype for tensor in tensors_of(tmp_path / "out").values()} == {written}
    if method == "flora":
        found = deltas(tmp_path / "out")
        for name, matrix in mean_of(folders, [1, 1]).items():
            np.testing.assert_allclose(found[name], matrix, atol=0.02 * np.abs(matrix).max())


def test_what_does_not_fit_into_half_precision_is_refused(tmp_path: Path):
    folder = write(tmp_path / "a")
    replace_tensors(folder, {n: t * 1e6 if n.endswith("lora_B.weight") else t for n, t in tensors_of(folder).items()})
    with pytest.raises(AdapterError, match="does not fit into float16"):
        merge([folder], dtype="float16")


@pytest.fixture
def most_alive(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """The most factors that were alive at once: read, copied, summed, or of the result."""
    alive: weakref.WeakSet[Factors] = weakref.WeakSet()
    most = 0
    check = Factors.__post_init__

    def watched(self: Factors) -> None:
        nonlocal most
        check(self)
        alive.add(self)
        most = max(most, len(alive))

    monkeypatch.setattr(Factors, "__post_init__", watched)
    return lambda: most


@pytest.fixture
def many(tmp_path: Path) -> list[Path]:
    """20 adapters of 4 modules: 80 factors."""
    return [write(tmp_path / str(i), 2, seed=i) for i in range(20)]


SPARE = 8
"""Values of loops that are through, and steps between the input and the result."""


@pytest.mark.parametrize("method", [name for name in MERGING if METHODS[name].info.fixed_sums])
def test_methods_of_sums_hold_one_module_of_one_adapter(many: list[Path], most_alive: Callable[[], int], method: str):
    """4 of the start, 4 of the result; the sums are no factors."""
    merge(many, method=method)
    assert most_alive() <= 4 + 4 + SPARE


@pytest.mark.parametrize("method", [name for name in MERGING if not METHODS[name].info.fixed_sums])
def test_the_others_hold_one_module_of_all_adapters(many: list[Path], most_alive: Callable[[], int], method: str):
    """1 of the start, 20 of the module, 4 of the result."""
    merge(many, method=method)
    assert 20 <= most_alive() <= 1 + 20 + 4 + SPARE


def test_holding_all_would_be_noticed(many: list[Path], most_alive: Callable[[], int], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("polyrank.merging.merge._portions", lambda _, inputs: [list(inputs.modules)])
    merge(many)
    assert most_alive() >= 80


def test_tensors_are_read_one_by_one(many: list[Path], monkeypatch: pytest.MonkeyPatch):
    """The whole file is never loaded, and a module's values are gone before those of the next adapter are read."""
    alive: weakref.WeakValueDictionary[int, torch.Tensor] = weakref.WeakValueDictionary()
    seen = []
    value = AdapterFile._value

    def watched(self: AdapterFile, key: str) -> torch.Tensor:
        tensor = value(self, key)
        alive[len(seen)] = tensor
        seen.append(len(alive))
        return tensor

    monkeypatch.setattr(AdapterFile, "_value", watched)
    monkeypatch.setattr("polyrank.merging.merge._loss", lambda *_: Loss(0, 1))  # needs a module of all adapters
    merge(many, method="replication")
    assert len(seen) >= 160
    assert max(seen) <= SPARE


def test_two_lines_in_a_notebook(three: list[Path], tmp_path: Path):
    merged = polyrank.merge(three, [3, 1, 2], method="flexlora", rank=4)
    merged.save(tmp_path / "merged")

    assert peft_folder.read(tmp_path / "merged").identical(merged.adapter)


def test_a_method_as_an_object(three: list[Path]):
    merged = polyrank.merge([str(path) for path in three], method=polyrank.method("replication", {"donor": "owners"}))
    agree(merged, owners_mean(three, [1, 1, 1]))


def test_settings_that_stay(tmp_path: Path):
    """Equal target modules are kept as they are, others are named in full."""
    folders = [write(tmp_path / "a", seed=1, lora_dropout=0.1, alpha=2), write(tmp_path / "b", seed=2)]
    merge(folders).save(tmp_path / "out")
    settings = json.loads((tmp_path / "out/adapter_config.json").read_text())
    kept = {"task_type": "SEQ_CLS", "base_model_name_or_path": "some/base", "target_modules": ["query", "dense"]}
    assert settings == {**settings, **kept, "lora_dropout": 0.1, "r": 2}
    edit(folders[0], target_modules=".*(query|dense)")
    merge(folders).save(tmp_path / "other")
    assert json.loads((tmp_path / "other/adapter_config.json").read_text())["target_modules"] == sorted(SHAPES)


@pytest.mark.parametrize("equal", [True, False])
def test_our_own_file_is_kept_where_all_agree(tmp_path: Path, equal: bool):
    folders = [write(tmp_path / "a", seed=1), write(tmp_path / "b", seed=2)]
    for i, folder in enumerate(folders):
        (folder / "polyrank.json").write_text(json.dumps({"labels": ["x", "y" if equal else str(i)]}))
    merge(folders).save(tmp_path / "out")
    assert (tmp_path / "out/polyrank.json").exists() is equal


def test_an_empty_folder_is_taken_and_nothing_else_stays(three: list[Path], tmp_path: Path):
    (tmp_path / "out").mkdir()
    merge(three).save(tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "c", "out"}
    with pytest.raises(AdapterError, match="not empty"):
        merge(three).save(tmp_path / "out")


def test_a_full_disk_leaves_nothing(three: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(_: Merged, folder: Path, given: Adapter) -> None:  # noqa: ARG001  # as the real one
        (folder / "half").write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Merged, "_write", full)
    with pytest.raises(AdapterError, match="No space left"):
        merge(three).save(tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"weights": [1, 2]}, "2 weights for 3 adapters"),
        ({"weights": [1, -1, 1]}, "/b is -1"),
        ({"weights": [1, 1, math.nan]}, "/c is nan"),
        ({"weights": [1, math.inf, 1]}, "is inf"),
        ({"weights": [0, 0, 0]}, "all weights are 0"),
        ({"rank": 0}, "rank is 0"),
        ({"rank": 8}, "above the size of encoder.layer.0.dense"),
        ({"dtype": "float8"}, "float8"),
        ({"method": "flexlorra"}, "did you mean 'flexlora'"),
        ({"method": "tempered", "options": {"gama": 1}}, "did you mean 'gamma'"),
        ({"method": "tempered", "options": {"gamma": "much"}}, "gamma"),
        ({"method": "owner_mean", "options": {"align": "rotation"}}, "align"),
        ({"method": "hetlora", "weights": [1, 2, 3]}, "norms"),
        ({"method": "fedavg"}, r"fedavg needs equal ranks: client .*/a sent rank"),
    ],
)
def test_wrong_use(three: list[Path], arguments: dict[str, Any], said: str):
    with pytest.raises((AdapterError, ConfigError), match=said):
        merge(three, **arguments)


@pytest.mark.parametrize("adapters", [[], "folder"])
def test_no_adapters(adapters: Any):
    with pytest.raises(AdapterError, match="a list of at least one"):
        merge(adapters)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"base_model_name_or_path": "other/base"}, "'some/base'.*'other/base'.*allow_different_bases"),
        ({"task_type": "CAUSAL_LM"}, "SEQ_CLS.*CAUSAL_LM"),
        ({"bias": "all"}, "none.*all"),
    ],
)
def test_adapters_that_do_not_belong_together(three: list[Path], changes: dict[str, Any], said: str):
    edit(three[1], **changes)
    with pytest.raises(AdapterError, match=said) as error:
        merge(three)
    for folder in three[:2]:
        assert str(folder) in str(error.value)


def test_different_names_of_one_base(three: list[Path]):
    edit(three[1], base_model_name_or_path="/models/base")
    edit(three[2], base_model_name_or_path=None)
    merge(three, allow_different_bases=True)
    edit(three[1], base_model_name_or_path=None)
    merge(three)


def test_layers_of_other_shapes_are_named(three: list[Path]):
    tensors = tensors_of(three[1])
    tensors[f"{QUERY}.lora_A.weight"] = torch.ones(4, 5)
    replace_tensors(three[1], tensors)
    with pytest.raises(AdapterError, match=f"{QUERY} differs: linear 7 x 9 in .*/a, linear 7 x 5 in .*/b"):
        merge(three)


def test_heads_of_other_labels_are_named(tmp_path: Path):
    folders = [write(tmp_path / str(n), dense={"classifier.weight": (n, 4)}) for n in (2, 3)]
    with pytest.raises(AdapterError, match=r"classifier.weight is \[2, 4\] in .*/2 and \[3, 4\] in .*/3"):
        merge(folders)


def test_whole_here_and_lora_there(three: list[Path]):
    tensors = {name: tensor for name, tensor in tensors_of(three[0]).items() if QUERY not in name}
    replace_tensors(three[0], {**tensors, f"{QUERY}.weight": torch.ones(7, 9)})
    with pytest.raises(AdapterError, match=f"{QUERY} is trained whole in .*/a, and by LoRA"):
        merge(three)
