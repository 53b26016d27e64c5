from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.cli.conftest import Polyrank, Result
from tests.merging.folders import SHAPES, deltas, edit, mean_of, replace_tensors, tensors_of, write

QUERY = "encoder.layer.0.query"
A, B = f"{QUERY}.lora_A.weight", f"{QUERY}.lora_B.weight"


def refused(result: Result, *said: str) -> None:
    """One line, exit code 2, and nothing left behind."""
    assert (result.code, result.out) == (2, "")
    assert len(result.err.strip().splitlines()) == 1, result.err
    for part in said:
        assert part in result.err
    assert not [path for path in Path().iterdir() if "out" in path.name]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return write(tmp_path / "a", 1, seed=1), write(tmp_path / "b", 3, seed=2, alpha=2)


def test_it_merges_and_says_what_was_lost(polyrank: Polyrank, pair: tuple[Path, Path]):
    result = polyrank("merge", *pair, "-o", "out", "--method", "owner_mean", "--weights", "3,1")
    assert result.code == 0
    rows = {line.split()[0]: line.split() for line in result.out.splitlines() if line.strip()}
    assert rows["query"][1:6] == ["2", "1", "to", "3", "3"]
    assert rows["all"][1:6] == ["4", "1", "to", "3", "3"]
    assert float(rows["all"][6]) > 1
    assert "2 adapters merged by owner_mean, rank 3: out" in result.out
    assert deltas(Path("out")).keys() == SHAPES.keys()


def test_json(polyrank: Polyrank, pair: tuple[Path, Path]):
    result = polyrank("merge", *pair, "-o", "out", "--json", "--rank", "2", "--dtype", "bfloat16")
    described = json.loads(result.out)
    assert described["method"] == "flexlora"
    assert described["groups"].keys() == {"query", "dense"}
    module = described["modules"][QUERY]
    assert (module["input_ranks"], module["rank"]) == ([1, 3], 2)
    assert 0 < module["error"] < 1
    assert {tensor.dtype for tensor in tensors_of(Path("out")).values()} == {torch.bfloat16}


def test_options_of_the_method(polyrank: Polyrank, pair: tuple[Path, Path]):
    """At tau = 1 florist is exact; its default is not."""

    def error(tau: str) -> float:
        arguments = ("--method", "florist", "--option", f"tau={tau}", "--json")
        return json.loads(polyrank("merge", *pair, "-o", f"out-{tau}", *arguments).out)["error"]

    assert error("1") < 1e-5 < error("0.5")
    for name, mean in mean_of(pair, [1, 1]).items():
        assert abs(deltas(Path("out-1"))[name] - mean).max() < 1e-4


def test_missing_modules_are_a_warning(
    polyrank: Polyrank, tmp_path: Path, pair: tuple[Path, Path], caplog: pytest.LogCaptureFixture
):
    part = write(tmp_path / "part", {QUERY: 2})
    result = polyrank("merge", *pair, part, "-o", "out", "--json")
    assert result.code == 0
    assert f"{part} lacks encoder.layer.0.dense, encoder.layer.1.dense, encoder.layer.1.query; averaged" in caplog.text
    assert json.loads(result.out)["lacking"] == {str(part): sorted(set(SHAPES) - {QUERY})}


def test_bases_that_only_differ_in_name(polyrank: Polyrank, pair: tuple[Path, Path]):
    edit(pair[1], base_model_name_or_path="/models/base")
    refused(polyrank("merge", *pair, "-o", "out"), "some/base", "/models/base", "--allow-different-bases")
    assert polyrank("merge", *pair, "-o", "out", "--allow-different-bases").code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--weights", "1,x"], "--weights 1,x"),
        (["--weights", "1"], "1 weights for 2 adapters"),
        (["--weights", "0,0"], "all weights are 0"),
        (["--weights=1,-1"], "is -1"),
        (["--method", "ffa"], "cannot merge"),
        (["--method", "fedavg"], "equal ranks"),
        (["--method", "mean"], "no aggregation method"),
        (["--option", "tau"], "expected key=value"),
        (["--option", "tau=1"], "no option"),
        (["--dtype", "int8"], "int8"),
        (["--rank", "50"], "above the size of"),
    ],
)
def test_wrong_use(polyrank: Polyrank, pair: tuple[Path, Path], arguments: list[str], said: str):
    refused(polyrank("merge", *pair, "-o", "out", *arguments), said)


def test_nothing_is_written_over(polyrank: Polyrank, pair: tuple[Path, Path]):
    before = tensors_of(pair[0])
    for taken in pair[0], pair[0] / "adapter_config.json":
        result = polyrank("merge", *pair, "-o", taken)
        assert (result.code, len(result.err.strip().splitlines())) == (2, 1)
        assert "not empty" in result.err
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors_of(pair[0]).items())


# --- broken inputs ----------------------------------------------------------------------------------------------------


def cut_off(kept: int) -> Callable[[Path], None]:
    def breaks(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        path.write_bytes(path.read_bytes()[:kept])

    return breaks


def pickled(name: str) -> Callable[[Path], None]:
    def breaks(folder: Path) -> None:
        (folder / "adapter_model.safetensors").unlink()
        torch.save({A: torch.ones(1)}, folder / name)

    return breaks


def settings(**changes: object) -> Callable[[Path], None]:
    return lambda folder: edit(folder, **changes)


def config(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "adapter_config.json").write_text(text)


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def breaks(folder: Path) -> None:
        found = tensors_of(folder)
        change(found)
        replace_tensors(folder, found)

    return breaks


def more(found: dict[str, torch.Tensor]) -> Callable[[Path], None]:
    return tensors(lambda t: t.update(found))


def named(name: str) -> Callable[[Path], None]:
    """One more tensor, under a name that is taken as it is."""

    def breaks(folder: Path) -> None:
        found = {f"base_model.model.{key}": tensor for key, tensor in tensors_of(folder).items()}
        save_file({**found, name: torch.ones(1, 9)}, folder / "adapter_model.safetensors")

    return breaks


def not_a_number(name: str, value: float) -> Callable[[Path], None]:
    return tensors(lambda found: found[name][0].fill_(value))


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def gone(folder: Path) -> None:
    empty(folder)
    folder.rmdir()


def a_file(folder: Path) -> None:
    gone(folder)
    folder.write_text("adapter")


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated data": (cut_off(-40), "cannot be read"),
    "truncated header": (cut_off(100), "cannot be read"),
    "no bytes": (cut_off(0), "cannot be read"),
    "old pickle": (pickled("adapter_model.bin"), "is a pickle, which is never loaded"),
    "pickle under a wrong name": (pickled("adapter_model.safetensors"), "is a pickle, which is never loaded"),
    "wrong r": (settings(r=7), f"says rank 7 for {QUERY.replace('query', 'dense')}, but its lora_A has 3 rows"),
    "wrong pattern": (settings(rank_pattern={"query": 4}), f"says rank 4 for {QUERY}"),
    "pattern of another type": (settings(rank_pattern=[1]), "rank_pattern is [1]"),
    "pattern that is no regular expression": (settings(rank_pattern={"(": 2}), "no regular expression"),
    "rank that is a text": (settings(r="3"), "r is '3'"),
    "alpha that is NaN": (settings(lora_alpha=float("nan")), "lora_alpha nan"),
    "base that is a number": (settings(base_model_name_or_path=5), "base_model_name_or_path is 5"),
    "head that is a text": (settings(modules_to_save="classifier"), "modules_to_save is 'classifier'"),
    "NaN in A": (not_a_number(A, float("nan")), f"lora_A of {QUERY} holds NaN"),
    "infinity in B": (not_a_number(B, float("inf")), f"lora_B of {QUERY} holds NaN or infinite"),
    "NaN in a head": (more({"head.weight": torch.full((2,), float("nan"))}), "head.weight holds NaN"),
    "absolute path": (named("/etc/passwd.lora_A.weight"), "'/etc/passwd.lora_A.weight' is no name"),
    "absolute path behind the prefix": (named("base_model.model./etc/x.lora_A.weight"), "is no name of a tensor"),
    "parent folder": (named("base_model.model.../../x.lora_A.weight"), "is no name of a tensor"),
    "two dots": (named("base_model.model...lora_A.weight"), "is no name of a tensor"),
    "line break": (named("base_model.model.a\nb.weight"), "is no name of a tensor"),
    "half a pair": (tensors(lambda t: t.pop(B)), f"{QUERY} has lora_A only"),
    "factors that do not fit": (more({B: torch.ones(7, 2)}), f"{QUERY} has lora_A [3, 9] and lora_B"),
    "vectors": (more({A: torch.ones(3), B: torch.ones(3)}), f"{QUERY} has lora_A [3]"),
    "whole numbers": (more({A: torch.ones(3, 9, dtype=torch.int8)}), "stored as I8"),
    "no factors": (lambda folder: replace_tensors(folder, {"head.weight": torch.ones(2)}), "no LoRA"),
    "empty folder": (empty, "is no adapter folder"),
    "file": (a_file, "cannot be read"),
    "no folder": (gone, "is no adapter folder"),
    "no weights": (lambda folder: (folder / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors"),
    "damaged config": (config("{"), "cannot be read"),
    "deep config": (config("[" * 100_000), "cannot be read"),
    "config that is a list": (config("[]"), "expected the settings"),
    "another method": (settings(peft_type="IA3"), "expected LORA"),
    "changed base": (settings(init_lora_weights="pissa"), "pissa"),
    "DoRA": (more({f"{QUERY}.lora_magnitude_vector": torch.ones(7)}), f"{QUERY} has a lora_magnitude"),
    "experts": (settings(target_parameters=["experts.w"]), "target_parameters"),
}


@pytest.mark.parametrize("method", ["flexlora", "owner_mean"])
@pytest.mark.parametrize("kind", BROKEN)
def test_broken_inputs(polyrank: Polyrank, pair: tuple[Path, Path], kind: str, method: str):
    breaks, said = BROKEN[kind]
    breaks(pair[1])
    result = polyrank("merge", *pair, "-o", "out", "--method", method)
    refused(result, str(pair[1]), said)
