from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from polyrank.core.adapter import Adapter
from polyrank.core.errors import ConfigError, RunFolderError
from polyrank.core.state import ServerState
from polyrank.federation.round import cohort, global_model
from polyrank.federation.server import build
from polyrank.hf.peft import folder as peft_folder
from polyrank.runs import checkpoint
from polyrank.runs.folder import RunFolder
from polyrank.runs.listener import Listener, Listeners
from polyrank.runs.runner import Runner, run, saved_config
from polyrank.training.work import Outcome, Penalty, Work
from tests import models
from tests.conftest import Configure
from tests.runs.disk import files_up_to, no_space
from tests.runs.doubles import Absent, Pretend, broken, plus, pretending

QUERY = "bert.encoder.layer.0.attention.self.query"

FACTORS = {2: 1024, 4: 2048}
"""Bytes of an adapter: query and value of 2 layers of 16 x 16 are 4 modules of 16 r + 16 r float32 numbers, 512 r."""
HEAD = 136
"""Bytes of the head: 2 x 16 weights and 2 biases in float32."""


def untimed(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def final(folder: Path) -> ServerState:
    return checkpoint.load(folder / "checkpoint")


@pytest.fixture(scope="module")
def done(configure: Configure, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three rounds from start to end."""
    folder = tmp_path_factory.mktemp("done") / "run"
    run(configure("evaluation.rank_groups=true"), folder)
    return folder


def test_a_run_folder_holds_all_of_a_run(done: Path):
    found = {path.name for path in done.iterdir()}
    files = {"config.toml", "requested.toml", "metrics.jsonl", "clients.json", "run.json", "summary.json"}
    assert found == files | {"checkpoint", "adapter", ".lock"}
    assert sorted(path.name for path in (done / "checkpoint").iterdir()) == ["round-00002", "round-00003"]


def test_there_is_a_line_for_each_round_with_the_documented_names(done: Path):
    lines = [json.loads(line) for line in (done / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["round"] for line in lines] == [1, 2, 3]
    for line in lines:
        assert 0 <= line["test/accuracy"] <= 1
        assert line["test/loss"] > 0
        assert line["train/loss"] > 0
        assert line["seconds"] > 0
        assert line["dropped"] == {}
        assert line["aggregation/error"] > 0
        assert len(line["clients"]) == 3


def test_bytes_are_those_of_the_adapters_of_the_clients_that_took_part(done: Path):
    """A client of rank r gets and sends 512 r + 136 bytes, head included; client-00 and client-01 have rank 4."""
    for line in RunFolder(done).read_metrics():
        high = len({"client-00", "client-01"} & set(line["clients"]))
        expected = high * (FACTORS[4] + HEAD) + (3 - high) * (FACTORS[2] + HEAD)
        assert (line["bytes/up"], line["bytes/down"]) == (expected, expected)
        assert line["rows/owners_weight"] == pytest.approx([1, 1, high / 3, high / 3])


def test_the_summary_adds_up(done: Path):
    summary, lines = RunFolder(done).read_json("summary"), RunFolder(done).read_metrics()
    assert summary["rounds"] == 3
    assert summary["bytes/up"] == sum(line["bytes/up"] for line in lines)
    assert summary["test/accuracy"] == lines[-1]["test/accuracy"]
    assert summary["best/accuracy"] == max(line["test/accuracy"] for line in lines)
    assert lines[summary["best/round"] - 1]["test/accuracy"] == summary["best/accuracy"]
    assert 0.5 <= summary["constant/accuracy"] < 1
    assert [(group["rank"], group["clients"]) for group in summary["rank_groups"]] == [(2, 4), (4, 2)]


def test_clients_are_on_record(done: Path):
    clients = RunFolder(done).read_json("clients")
    assert clients["scoring"] == {"bytes/up": 0, "bytes/down": 0}
    about = clients["clients"]["client-01"]
    assert sum(about.pop("labels")) == 32
    assert about == {"rank": 4, "examples": 32, "group": None}
    assert RunFolder(done).read_json("run")["labels"] == ["fruit", "pets"]


def test_the_adapter_is_the_last_rounds(done: Path):
    assert peft_folder.read(done / "adapter").identical(final(done).adapter)


def test_a_federation_learns(configure: Configure, tmp_path: Path):
    """Two clients of 96 texts in which single words tell the label: in ten rounds the loss falls by half."""
    clients = ("federation.clients=2", "federation.participation=1", "ranks.counts=[1, 1]")
    model = ("model.head=mean-pool", "model.config={hidden_dropout_prob = 0.0, attention_probs_dropout_prob = 0.0}")
    long = ("federation.rounds=10", "evaluation.every=10", "training.lr=2e-2", "training.epochs=2")
    summary = run(configure(*clients, *model, *long), tmp_path)
    losses = [line["train/loss"] for line in RunFolder(tmp_path).read_metrics()]
    assert losses[-1] < losses[0] / 2
    assert summary["test/accuracy"] > summary["constant/accuracy"]


def test_the_resolved_configuration_gives_the_same_run(done: Path, tmp_path: Path):
    from polyrank import config as configuration

    config = configuration.load(done / "config.toml")
    assert config == saved_config(done)
    run(config, tmp_path / "again")
    assert final(tmp_path / "again").adapter.identical(final(done).adapter)
    assert untimed(RunFolder(tmp_path / "again").read_metrics()) == untimed(RunFolder(done).read_metrics())
    assert (tmp_path / "again" / "config.toml").read_bytes() == (done / "config.toml").read_bytes()


def test_cohorts_do_not_depend_on_the_method(done: Path, configure: Configure, tmp_path: Path):
    run(configure("aggregation.method=zero_padding"), tmp_path / "other")
    here, there = (RunFolder(folder).read_metrics() for folder in (done, tmp_path / "other"))
    clients = tuple(f"client-0{i}" for i in range(6))
    assert [tuple(line["clients"]) for line in here] == [cohort(clients, 0.5, 0, number) for number in (1, 2, 3)]
    assert [line["clients"] for line in here] == [line["clients"] for line in there]
    assert here[0]["train/loss"] == there[0]["train/loss"]  # the same clients, data and initial adapter
    assert not final(done).adapter.identical(final(tmp_path / "other").adapter)


def test_a_local_head_is_not_sent_and_comes_back_to_its_client(configure: Configure, tmp_path: Path):
    """Everyone adds 1/8 to every value of its head: after three rounds a client's head has moved by 1/8 for each time
    that it took part, and the server's not at all. Bytes are those of the factors alone."""
    runner = pretending(configure("federation.head=local"), tmp_path, Pretend())
    initial = runner.server.initial_state().adapter.dense
    state = runner.run(runner.start())
    lines = runner.folder.read_metrics()
    for line in lines:
        high = len({"client-00", "client-01"} & set(line["clients"]))
        expected = high * FACTORS[4] + (3 - high) * FACTORS[2]
        assert (line["bytes/up"], line["bytes/down"]) == (expected, expected)
    part = [client for line in lines for client in line["clients"]]
    assert set(state.personal) == set(part)
    for client, own in state.personal.items():
        for name, tensor in own.items():
            torch.testing.assert_close(tensor, initial[name] + 0.125 * part.count(client))
    assert all(torch.equal(state.adapter.dense[name], tensor) for name, tensor in initial.items())


def test_every_job_has_a_seed_of_its_own(configure: Configure, tmp_path: Path):
    """Six clients in three rounds are 18 works; a client must not see its texts in the same order each round."""
    seeds: list[int] = []

    class Recorder(Pretend):
        def run(self, works: Sequence[Work]) -> Iterator[Outcome]:
            seeds.extend(work.seed for work in works)
            return super().run(works)

    runner = pretending(configure("federation.participation=1"), tmp_path, Recorder())
    runner.run(runner.start())
    assert len(set(seeds)) == len(seeds) == 18


def test_uniform_weights_count_every_client_alike(configure: Configure, tmp_path: Path):
    """The second of two clients holds twice the examples and adds 1 where the first adds 4: (4 + 2) / 3 = 2 or 2.5."""
    column = ("data.partition=by-column", "data.column=pair", "federation.clients=2", "federation.participation=1")
    ranks = ("ranks.levels=[2]", "ranks.counts=[2]", "federation.rounds=1", "data.test_share=0.25")
    table = tmp_path / "pairs.csv"
    rows = [f"{word} the,{label},{pair}" for label, word in (("a", "cat"), ("b", "fig")) for pair in "xyy" * 4]
    table.write_text("text,label,pair\n" + "\n".join(rows), encoding="utf-8")
    for weights in ("examples", "uniform"):
        config = configure(*column, *ranks, f"data.train={table}", f"aggregation.weights={weights}")
        runner = pretending(config, tmp_path / weights, Pretend({"x": plus(4.0), "y": plus(1.0)}))
        sizes = {client: len(examples) for client, examples in runner.server.site.examples.items()}
        mean = (4 * sizes["x"] + sizes["y"]) / (sizes["x"] + sizes["y"]) if weights == "examples" else 2.5
        assert sizes["x"] < sizes["y"]
        start = runner.start()
        after = runner.step(start)
        for name, tensor in after.adapter.tensors():
            torch.testing.assert_close(tensor, dict(start.adapter.tensors())[name] + mean)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("tensor", [f"{QUERY}.a", "classifier.bias"])
def test_a_client_that_diverged_is_named_in_log_and_metrics(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture, value: float, tensor: str
):
    """client-01 diverges whenever it takes part; the others add 1/8 and are not affected."""
    runner = pretending(
        configure("federation.participation=1", "federation.rounds=1"),
        tmp_path,
        Pretend({"client-01": broken(value, tensor)}),
    )
    with caplog.at_level(logging.WARNING):
        start = runner.start()
        state = runner.run(start)
    reason = f"NaN or infinite values in {tensor} after local training"
    assert [record.getMessage() for record in caplog.records] == [f"round 1: client-01 is left out: {reason}"]
    (line,) = runner.folder.read_metrics()
    assert line["dropped"] == {"client-01": reason}
    assert "client-01" in line["clients"]
    assert math.isfinite(line["test/loss"])
    assert runner.folder.read_json("summary")["dropped"] == 1
    for name, after in state.adapter.tensors():
        torch.testing.assert_close(after, dict(start.adapter.tensors())[name] + 0.125)


def test_a_client_that_gives_no_update_is_named_with_its_reason(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """The other five add 1/8."""
    config = configure("federation.participation=1", "federation.rounds=1")
    runner = pretending(config, tmp_path, Absent())
    start = runner.start()
    state = runner.run(start)
    (line,) = runner.folder.read_metrics()
    assert line["dropped"] == {"client-01": "its node does not answer"}
    assert "round 1: client-01 is left out: its node does not answer" in caplog.messages
    assert runner.folder.read_json("summary")["dropped"] == 1
    for name, after in state.adapter.tensors():
        torch.testing.assert_close(after, dict(start.adapter.tensors())[name] + 0.125)


def test_a_learning_rate_at_which_everyone_diverges_leaves_the_adapter_alone(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Real training, four steps each: after the first one weights are near 1e30 and their products overflow."""
    config = configure("training.lr=1e30", "federation.rounds=2")
    with caplog.at_level(logging.WARNING):
        run(config, tmp_path)
    state = final(tmp_path)
    assert state.round == 2
    assert state.adapter.identical(pretending(config, tmp_path, Pretend()).server.initial_state().adapter)
    lines = RunFolder(tmp_path).read_metrics()
    assert [sorted(line["dropped"]) for line in lines] == [line["clients"] for line in lines]
    assert [line["train/loss"] for line in lines] == [None, None]
    assert len([record for record in caplog.records if "is left out: NaN or infinite" in record.message]) == 6


def test_weights_that_overflow_only_when_they_are_summed_do_not_reach_the_server(configure: Configure, tmp_path: Path):
    """One step of AdamW at 2e37 makes values of 2e37, finite; 3 clients of 32 examples sum to 2e39, which is not."""
    run(configure("training.lr=2e37", "training.batch_size=32", "federation.rounds=1"), tmp_path)
    assert final(tmp_path).adapter.first_not_finite() is None
    (line,) = RunFolder(tmp_path).read_metrics()
    assert all("the round's sum overflows" in reason for reason in line["dropped"].values())
    assert math.isfinite(line["test/loss"])


def scored(configure: Configure, *more: str) -> Any:
    return configure("ranks.policy=validation", "ranks.validation_per_label=10", "federation.rounds=1", *more)


def promoting(*clients: str) -> dict[str, Any]:
    """Changes under which these clients keep the initial head, and all others are very sure of one label."""

    def sure(adapter: Adapter) -> Adapter:
        bias = torch.tensor([1000.0, -1000.0])
        return replace(adapter, dense=adapter.dense | {"classifier.bias": bias})

    everyone = {f"client-0{i}": sure for i in range(6)}
    return everyone | dict.fromkeys(clients, plus(0.0))


def test_the_clients_that_score_best_are_promoted(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Six clients train once at rank 2; client-05 and client-02 lose least and get the two places at rank 4.

    client-01 diverges: its loss is NaN, it is named and comes last. Everyone was sent and sent back rank 2 and a head.
    """
    changes = promoting("client-02", "client-05") | {"client-01": broken(math.nan, f"{QUERY}.a")}
    runner = pretending(scored(configure), tmp_path, Pretend(changes))
    with caplog.at_level(logging.WARNING):
        state = runner.start()
    assert {client for client, rank in state.ranks.items() if rank == 4} == {"client-02", "client-05"}
    assert state.round == 0
    assert state.adapter.identical(runner.server.initial_state().adapter)  # nothing was aggregated
    assert [record.getMessage() for record in caplog.records] == [
        "scoring: client-01 has the validation loss nan and comes last"
    ]
    clients = runner.folder.read_json("clients")
    assert clients["scoring"] == {"bytes/up": 6 * (FACTORS[2] + HEAD), "bytes/down": 6 * (FACTORS[2] + HEAD)}
    assert clients["clients"]["client-05"]["rank"] == 4
    assert clients["clients"]["client-05"]["validation_loss"] < clients["clients"]["client-00"]["validation_loss"]


def test_a_client_that_gives_no_update_in_scoring_comes_last(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """All others are equally sure of one label, so places go by name; client-00, who is absent, gets none."""
    runner = pretending(scored(configure), tmp_path, Absent(promoting(), who="client-00"))
    state = runner.start()
    assert {client for client, rank in state.ranks.items() if rank == 4} == {"client-01", "client-02"}
    assert "scoring: client-00 gave no update and comes last: its node does not answer" in caplog.messages


def test_scoring_counts_in_the_summarys_bytes_and_the_server_sends_no_local_head(configure: Configure, tmp_path: Path):
    """Down: factors alone. Up: the head too, since the server scores the client's whole model on its own texts."""
    runner = pretending(scored(configure, "federation.head=local"), tmp_path, Pretend())
    runner.run(runner.start())
    scoring = runner.folder.read_json("clients")["scoring"]
    assert scoring == {"bytes/up": 6 * (FACTORS[2] + HEAD), "bytes/down": 6 * FACTORS[2]}
    (line,) = runner.folder.read_metrics()
    summary = runner.folder.read_json("summary")
    assert summary["bytes/up"] == scoring["bytes/up"] + line["bytes/up"]
    assert summary["bytes/down"] == scoring["bytes/down"] + line["bytes/down"]


def test_scales_follow_the_rank_after_scoring(configure: Configure, tmp_path: Path):
    """alpha / r with alpha 2: 1/2 at rank 4 and 1 at rank 2."""
    runner = pretending(scored(configure, "ranks.scaling=lora"), tmp_path, Pretend(promoting("client-03", "client-04")))
    state = runner.start()
    assert {client for client, scale in state.scales.items() if scale == 0.5} == {"client-03", "client-04"}
    assert set(state.scales.values()) == {0.5, 1.0}


def test_evaluation_can_be_rarer_and_the_last_round_is_always_evaluated(configure: Configure, tmp_path: Path):
    runner = pretending(configure("federation.rounds=5", "evaluation.every=2"), tmp_path, Pretend())
    runner.run(runner.start())
    lines = runner.folder.read_metrics()
    assert [line["round"] for line in lines if "test/accuracy" in line] == [2, 4, 5]


DIAGNOSTICS = {
    *("aggregation/error", "aggregation/error_by_module", "rank/effective", "rank/energy_in_lowest", "clients/drift")
}


def test_the_diagnostics_can_be_left_out(configure: Configure, tmp_path: Path):
    for wanted in ("true", "false"):
        runner = pretending(configure(f"evaluation.diagnostics={wanted}"), tmp_path / wanted, Pretend())
        runner.step(runner.start())
        measured = runner.folder.read_metrics()[0].keys()
        assert measured & DIAGNOSTICS == (DIAGNOSTICS if wanted == "true" else set())


def test_another_run_is_kept_unless_told_otherwise(configure: Configure, tmp_path: Path):
    """Refused before anything is loaded: the model of the second run does not exist."""
    run(configure("federation.rounds=1"), tmp_path / "run")
    before = final(tmp_path / "run")
    with pytest.raises(RunFolderError, match="holds another run"):
        run(configure("model.name=/no/such/model"), tmp_path / "run")
    assert final(tmp_path / "run").adapter.identical(before.adapter)
    run(configure("federation.rounds=2", "federation.seed=1"), tmp_path / "run", overwrite=True)
    assert final(tmp_path / "run").round == 2
    assert len(RunFolder(tmp_path / "run").read_metrics()) == 2


def test_a_configuration_that_does_not_fit_writes_nothing(configure: Configure, tmp_path: Path):
    with pytest.raises(ConfigError, match="fedavg needs clients of equal ranks"):
        run(configure("aggregation.method=fedavg"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_disk_that_fills_up_is_one_clear_line_and_the_run_can_go_on(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The checkpoint of round 2 does not fit; that of round 1 is whole, and the resumed run ends as the other one."""
    config = configure("federation.rounds=2")
    run(config, tmp_path / "whole")
    real = checkpoint._write

    def write(path: Path, data: bytes) -> None:
        if "00002" in path.parent.name:
            real(path, data[: len(data) // 2])
            raise no_space()
        real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write", write)
        with pytest.raises(
            RunFolderError, match=r"checkpoint cannot be written: No space left on device; .*--resume"
        ) as e:
            run(config, tmp_path / "full")
    assert "\n" not in str(e.value)
    assert final(tmp_path / "full").round == 1
    run(config, tmp_path / "full", resume=True)
    assert final(tmp_path / "full").adapter.identical(final(tmp_path / "whole").adapter)
    assert untimed(RunFolder(tmp_path / "full").read_metrics()) == untimed(RunFolder(tmp_path / "whole").read_metrics())


def test_an_adapter_that_does_not_fit_on_the_disk_is_one_clear_line(configure: Configure, tmp_path: Path):
    """The system cuts off what safetensors writes: 4 modules of rank 4 are over 2048 bytes."""
    runner = pretending(configure("federation.rounds=1"), tmp_path, Pretend())
    state = runner.step(runner.start())
    with (
        files_up_to(2048),
        pytest.raises(RunFolderError, match=r"adapter cannot be written: .*File too large") as error,
    ):
        runner.run(state)
    assert "\n" not in str(error.value)
    assert final(tmp_path).round == 1


class Diary(Listener):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def on_start(self, federation: object, state: ServerState) -> None:  # noqa: ARG002  # the listener's signature
        self.told.append(("start", state.round))

    def on_client(self, stage: str, done: int, total: int) -> None:
        self.told.append((stage, done, total))

    def on_saved(self, round_number: int) -> None:
        self.told.append(("saved", round_number))

    def on_round(self, metrics: Mapping[str, Any]) -> None:
        self.told.append(("round", metrics["round"]))

    def on_end(self, summary: Mapping[str, Any]) -> None:
        self.told.append(("end", summary["rounds"]))


def test_listeners_are_told_what_happens_in_its_order(configure: Configure, tmp_path: Path):
    one, other = Diary(), Diary()
    runner = replace(pretending(scored(configure), tmp_path, Pretend()), listeners=Listeners([one, other]))
    runner.run(runner.start())
    scoring = [("scoring", i, 6) for i in range(1, 7)]
    training = [("training", i, 3) for i in range(1, 4)]
    assert one.told == [("start", 0), *scoring, ("saved", 0), *training, ("saved", 1), ("round", 1), ("end", 1)]
    assert other.told == one.told


def test_a_tracker_that_is_not_installed_is_said_before_the_work(configure: Configure, tmp_path: Path):
    from accelerate.tracking import get_available_trackers

    if "mlflow" in map(str, get_available_trackers()):
        pytest.skip("mlflow is installed here")
    with pytest.raises(ConfigError, match="mlflow"):
        run(configure('output.trackers=["mlflow"]'), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_tensorboard_gets_the_scalars(configure: Configure, tmp_path: Path):
    pytest.importorskip("tensorboard")
    run(configure('output.trackers=["tensorboard"]', "federation.rounds=1"), tmp_path / "run")
    files = [path for path in (tmp_path / "run" / "events").rglob("events*") if path.is_file()]
    assert any(b"test/accuracy" in path.read_bytes() for path in files)


A_BYTES, B_BYTES = {2: 512, 4: 1024}, {2: 512, 4: 1024}
"""Of the two factors of four modules of 16 x 16: 256 r each."""


def with_high(line: dict[str, Any], of_rank: dict[int, int]) -> int:
    """A sum over the clients of a round; client-00 and client-01 have rank 4, the others 2."""
    return sum(of_rank[4 if client in ("client-00", "client-01") else 2] for client in line["clients"])


@pytest.mark.parametrize(
    ("method", "up", "down"),
    [
        ("ffa", [("b", "head")] * 3, [("b", "head")] * 3),
        ("fedsvd", [("b", "head")] * 3, [("a", "b", "head")] * 3),
        ("rolora", [("b", "head"), ("a", "head"), ("b", "head")], [("a", "b", "head")] * 3),
        ("fedsa", [("a",)] * 3, [("a",)] * 3),
        ("fedhl", [("a", "b", "head")] * 3, [("a", "b", "head")] * 3),
    ],
)
def test_bytes_are_those_of_what_travels(
    configure: Configure, tmp_path: Path, method: str, up: list[tuple[str, ...]], down: list[tuple[str, ...]]
):
    """256 r bytes for A and as many for B, 136 for the head."""
    runner = pretending(configure(f"aggregation.method={method}"), tmp_path, Pretend())
    runner.run(runner.start())
    size = {"a": A_BYTES, "b": B_BYTES, "head": dict.fromkeys((2, 4), HEAD)}
    for line, sent, received in zip(runner.folder.read_metrics(), up, down, strict=True):
        assert line["bytes/up"] == sum(with_high(line, size[part]) for part in sent)
        assert line["bytes/down"] == sum(with_high(line, size[part]) for part in received)


def test_floras_clients_are_sent_head_and_base_change(configure: Configure, tmp_path: Path):
    """The base change has the rank of all that was stacked, 16 at most: 4 modules of (16 + 16) 4 bytes for each."""
    runner = pretending(configure("aggregation.method=flora"), tmp_path, Pretend())
    state, rank = runner.start(), 0
    for _ in range(3):
        state = runner.step(state)
        line = runner.folder.read_metrics()[-1]
        assert line["bytes/up"] == with_high(line, {r: FACTORS[r] + HEAD for r in (2, 4)})
        assert line["bytes/down"] == 3 * (HEAD + 512 * rank)
        rank = min(rank + with_high(line, {2: 2, 4: 4}), 16)
        assert state.base_change is not None
        found = {factors.rank for factors in state.base_change.modules.values()}
        assert found <= set(range(1, rank + 1))  # terms that cancel need no rank
        rank = max(found)
        assert len(found) == 1


def test_what_fedsa_keeps_comes_back_to_its_client(configure: Configure, tmp_path: Path):
    """Everyone adds 1/8 to all that it holds: after three rounds a client's B and head are 1/8 for each time that it
    took part above the start, and its A is the server's. The server's B and head stay as they were."""
    runner = pretending(configure("aggregation.method=fedsa"), tmp_path, Pretend())
    start = runner.start()
    state = runner.run(start)
    part = [client for line in runner.folder.read_metrics() for client in line["clients"]]
    assert max(map(part.count, part)) > 1
    assert set(state.personal) == set(part)
    for client, own in state.personal.items():
        assert own.keys() == {f"{name}.b" for name in state.adapter.modules} | state.adapter.dense.keys()
        initial = dict(start.adapter.prefix(state.ranks[client]).tensors())
        for name, tensor in own.items():
            torch.testing.assert_close(tensor, initial[name] + 0.125 * part.count(client))
    for name, factors in state.adapter.modules.items():
        assert torch.equal(factors.b, start.adapter.modules[name].b)
        assert not torch.equal(factors.a, start.adapter.modules[name].a)
    restored = final(tmp_path)
    assert all(own[n].equal(restored.personal[c][n]) for c, own in state.personal.items() for n in own)


def test_where_b_stays_with_the_clients_no_diagnostics_are_claimed(configure: Configure, tmp_path: Path):
    """The server's product is zero and would agree with itself; its clients' are personal."""
    runner = pretending(configure("aggregation.method=fedsa"), tmp_path, Pretend())
    runner.step(runner.start())
    (line,) = runner.folder.read_metrics()
    assert not line.keys() & DIAGNOSTICS
    assert line["test/loss"] > 0


def test_diagnostics_of_clients_that_learn_nothing(configure: Configure, tmp_path: Path):
    """All products are zero, as B is: no error, no direction and no drift."""
    runner = pretending(configure(), tmp_path, Pretend({f"client-0{i}": plus(0.0) for i in range(6)}))
    runner.step(runner.start())
    (line,) = runner.folder.read_metrics()
    assert {name: line[name] for name in DIAGNOSTICS - {"aggregation/error_by_module"}} == {
        "aggregation/error": 0.0,
        "rank/effective": 0.0,
        "rank/energy_in_lowest": 0.0,
        "clients/drift": 0.0,
    }
    assert set(line["aggregation/error_by_module"].values()) == {0.0}


def test_diagnostics_of_a_lone_client(configure: Configure, tmp_path: Path):
    """It has rank 4 and all that it sends becomes the server's: no error. In round 1 it starts from zero: drift 1."""
    config = configure("federation.clients=1", "federation.participation=1", "ranks.counts=[0, 1]")
    runner = pretending(config, tmp_path, Pretend())
    runner.run(runner.start())
    first, second, _ = runner.folder.read_metrics()
    assert first["aggregation/error"] == pytest.approx(0, abs=1e-6)
    assert first["clients/drift"] == pytest.approx(1)
    assert 0 < second["clients/drift"] < 1
    assert first["rank/effective"] == pytest.approx(1)  # all columns of B are the same
    assert first["rank/energy_in_lowest"] == pytest.approx(1)


@pytest.mark.parametrize("method", ["flora", "fedex", "fedhl"])
def test_methods_that_change_the_base_are_exact_or_say_so(configure: Configure, tmp_path: Path, method: str):
    """Real training at three ranks and scales; the base change that everyone was sent is no part of the change."""
    ranks = ("ranks.levels=[1, 2, 4]", "ranks.counts=[2, 2, 2]", "ranks.scaling=lora", "federation.participation=1")
    run(configure(f"aggregation.method={method}", *ranks, "training.lr=5e-2"), tmp_path)
    errors = [line["aggregation/error"] for line in RunFolder(tmp_path).read_metrics()]
    assert errors[0] < 1e-5
    assert all(error < 1e-5 for error in errors) == (method != "fedhl")


@pytest.mark.parametrize("method", ["flora", "fedex", "fedhl"])
def test_the_exported_adapter_has_the_base_change_in_it(configure: Configure, tmp_path: Path, method: str):
    """Plain PEFT on the adapter folder gives the logits of the resident model with the base change installed."""
    from peft import PeftModel

    runner = Runner(build(configure(f"aggregation.method={method}")), RunFolder(tmp_path), Listeners())
    state = runner.run(runner.start())
    assert state.base_change is not None
    exported = peft_folder.read(tmp_path / "adapter")
    assert exported.identical(global_model(state))
    base = peft_folder.base_model(tmp_path / "adapter")
    inputs = models.TASK.collate([(runner.server.site.test, range(8))], torch.device("cpu"))
    resident = runner.server.site.resident
    resident.install(state.adapter)
    without = models.logits(resident.model, inputs)
    resident.install(state.adapter, state.base_change)
    expected = models.logits(resident.model, inputs)
    found = models.logits(PeftModel.from_pretrained(base.model, tmp_path / "adapter"), inputs)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (expected - without).abs().max() > 1e-4


def shrinking(*clients: str) -> Pretend:
    """Everyone adds 1/8; these clients' last rank index becomes all zeros."""

    def shrink(adapter: Adapter) -> Adapter:
        grown = plus(0.125)(adapter)
        for factors in grown.modules.values():
            factors.a[-1] = 0
        return grown

    return Pretend(dict.fromkeys(clients, shrink))


def test_a_client_that_shrinks_has_its_new_rank_and_scale_from_the_next_round_on(configure: Configure, tmp_path: Path):
    """client-00 and client-01 of rank 4 keep floor(0.75 r), 3 and then 2, the lowest level. B is zero in round 1, so
    there is no tail to get smaller; client-00 shrinks in rounds 2 and 3. With alpha 2 its scales are 2/4, 2/3, 2/2."""
    config = configure(
        *("ranks.policy=self_pruning", "ranks.prune_keep=0.75", "ranks.scaling=lora"),
        *("federation.participation=1", "federation.rounds=4"),
    )
    runner = pretending(config, tmp_path, Pretend())
    state = runner.step(runner.start())
    assert set(state.ranks.values()) == {2, 4}
    runner = replace(runner, server=replace(runner.server, engine=shrinking("client-00")))
    expected = [(4, 0.5), (3, 2 / 3), (2, 1.0), (2, 1.0)]
    for number in (2, 3, 4):
        before, state = state, runner.step(state)
        line = runner.folder.read_metrics()[-1]
        assert line["ranks"] == before.ranks
        assert line["ranks"]["client-00"] == expected[number - 2][0]
        assert (state.ranks["client-00"], state.scales["client-00"]) == expected[number - 1]
        assert (state.ranks["client-01"], state.scales["client-01"]) == (4, 0.5)
        assert {state.ranks[f"client-0{i}"] for i in range(2, 6)} == {2}
        saved = final(tmp_path)
        assert (saved.ranks, saved.scales) == (state.ranks, state.scales)
    assert {factors.rank for factors in state.adapter.modules.values()} == {4}


def test_a_client_that_keeps_its_b_is_judged_by_what_it_has_not_by_what_it_sent(configure: Configure, tmp_path: Path):
    """fedsa's server never sees a B; client-00 shrinks all the same, and its own B with it: to 3 columns, at scale 2/3
    in place of 2/4, so the 1/4 that it has become after two rounds is now 1/4 * 3/4 = 3/16."""
    ranks = ("ranks.policy=self_pruning", "ranks.prune_keep=0.75", "ranks.scaling=lora")
    config = configure(*ranks, "federation.participation=1", "aggregation.method=fedsa")
    runner = pretending(config, tmp_path, Pretend())
    state = runner.step(runner.start())
    runner = replace(runner, server=replace(runner.server, engine=shrinking("client-00")))
    state = runner.step(state)
    assert (state.ranks["client-00"], state.ranks["client-01"]) == (3, 4)
    own = state.personal["client-00"][f"{QUERY}.b"]
    torch.testing.assert_close(own, torch.full((16, 3), 3 / 16))
    assert runner.step(state).round == 3


def test_only_clients_that_can_shrink_are_penalised(configure: Configure, tmp_path: Path):
    """Rank 4 may become floor(0.99 * 4) = 3; rank 2 is the lowest level."""
    penalties: dict[str, Penalty | None] = {}

    class Recorder(Pretend):
        def run(self, works: Sequence[Work]) -> Iterator[Outcome]:
            penalties.update({work.client: work.penalty for work in works})
            return super().run(works)

    config = configure("ranks.policy=self_pruning", "federation.participation=1", "ranks.prune_weight=0.5")
    runner = pretending(config, tmp_path, Recorder())
    runner.step(runner.start())
    high = dict.fromkeys(("client-00", "client-01"), Penalty(3, 0.5))
    assert penalties == dict.fromkeys(runner.server.clients) | high
    plain = pretending(configure("federation.participation=1"), tmp_path / "plain", Recorder())
    plain.step(plain.start())
    assert set(penalties.values()) == {None}
    assert "ranks" not in plain.folder.read_metrics()[0]


@pytest.mark.parametrize(("method", "up"), [("ffa", 512 + HEAD), ("fedsa", 1024 + HEAD), ("rolora", 512 + HEAD)])
def test_scoring_sends_what_was_trained(configure: Configure, tmp_path: Path, method: str, up: int):
    """The server scores the whole model; of six clients of rank 2 it knows an A that was not trained."""
    runner = pretending(scored(configure, f"aggregation.method={method}"), tmp_path, Pretend())
    runner.start()
    assert runner.folder.read_json("clients")["scoring"]["bytes/up"] == 6 * up
