"""The strategy for other people's apps: plain ClientApps, PEFT's names, FedAvg's keys."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import Result, Strategy

from polyrank.config import RanksConfig
from polyrank.core.adapter import Adapter
from polyrank.core.errors import ConfigError, FlowerError, RunFolderError
from polyrank.core.seeds import torch_generator
from polyrank.core.state import ClientUpdate, ServerState
from polyrank.federation.tree import aggregate
from polyrank.flower import RankStrategy, declare_rank
from polyrank.flower.peft_arrays import from_arrays, read_arrays, to_arrays
from tests.flower.conftest import InProcess, apart

RANKS = {11: 1, 12: 2, 13: 4}
SHAPES = {"model.q": (6, 5), "model.v": (3, 5)}


def initial(rank: int = 4) -> ArrayRecord:
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, (d_out, d_in) in SHAPES.items():
        tensors[f"{name}.lora_A.weight"] = torch.randn(rank, d_in, generator=generator)
        tensors[f"{name}.lora_B.weight"] = torch.zeros(d_out, rank)
    return ArrayRecord({n: Array(t.numpy()) for n, t in {**tensors, "classifier.weight": torch.ones(2, 5)}.items()})


def client() -> ClientApp:
    """Adds noise of its own, drawn from its node and the round, and says that it has as many examples as its number."""
    app = declare_rank(ClientApp())

    @app.train()
    def train(message: Message, context: Context) -> Message:
        node, number = context.node_id, message.content["config"]["server-round"]
        generator = torch_generator(int(node), "noise", int(str(number)))
        moved = {
            name: Array(array.numpy() + 0.1 * torch.randn(array.shape, generator=generator).numpy())
            for name, array in message.content.array_records["arrays"].items()
        }
        metrics = MetricRecord({"num-examples": int(node), "train_loss": 1.0 / int(node), "own/accuracy": 0.5})
        return Message(RecordDict({"arrays": ArrayRecord(moved), "metrics": metrics}), reply_to=message)

    return app


def grid(ranks: Mapping[int, int | None] = RANKS) -> InProcess:
    return InProcess(client(), {n: {} if rank is None else {"lora-rank": rank} for n, rank in ranks.items()})


def start(strategy: RankStrategy, nodes: InProcess, rounds: int = 2, **more: Any) -> Result:
    return strategy.start(nodes, initial(), num_rounds=rounds, timeout=2, **more)


def sent(nodes: InProcess) -> list[Message]:
    return [message for message in nodes.sent if message.metadata.message_type == "train"]


@pytest.mark.parametrize("method", ["replication", "zero_padding", "flexlora", "fedavg", "ffa"])
def test_the_round_is_polyranks(method: str):
    """What comes out is `aggregate` of what the clients sent; with equal ranks where the method needs them."""
    nodes = grid(dict.fromkeys(RANKS, 4) if method in ("fedavg", "ffa") else RANKS)
    strategy = RankStrategy(method)
    result = start(strategy, nodes, rounds=1)
    started = from_arrays(initial())
    ranks = {str(n): int(c.node_config["lora-rank"]) for n, c in nodes.contexts.items()}
    modules = {name: type(f)(f.a, f.b, 2.0) for name, f in started.modules.items()}
    state = ServerState(0, Adapter(modules, started.dense), ranks, dict.fromkeys(ranks, 2.0))
    updates = []
    for message in sent(nodes):
        node = message.metadata.dst_node_id
        reply = nodes.app(message, nodes.contexts[node])
        like = state.adapter.prefix(ranks[str(node)])
        updates.append(ClientUpdate(str(node), read_arrays(reply.content["arrays"], like), float(node), {}))
    expected = aggregate(state, updates, strategy.method, uniform=False, local_head=False)
    assert apart(from_arrays(result.arrays), expected.state.adapter) < 1e-6
    assert not expected.dropped
    assert apart(from_arrays(result.arrays), started) > 0.01


def test_clients_get_their_own_rows_and_say_what_they_measured():
    nodes = grid()
    result = start(RankStrategy(), nodes)
    for message in sent(nodes):
        rank = RANKS[message.metadata.dst_node_id]
        about, arrays = message.content.config_records["config"], message.content.array_records["arrays"]
        assert (about["lora-rank"], about["lora-scale"], about["trains"]) == (rank, 2.0, "a,b,head")
        assert arrays["model.q.lora_A.weight"].numpy().shape == (rank, 5)
        assert arrays["model.v.lora_B.weight"].numpy().shape == (3, rank)
        assert message.metadata.ttl == 2
    assert [m.content.config_records["config"]["server-round"] for m in sent(nodes)] == [1] * 3 + [2] * 3
    assert sum(m.metadata.message_type == "query.rank" for m in nodes.sent) == 3  # asked once
    metrics = result.train_metrics_clientapp[2]
    assert metrics["train_loss"] == pytest.approx(3 / 36)  # weights are the reciprocals
    assert metrics["own/accuracy"] == 0.5
    assert (metrics["clients"], metrics["dropped"]) == (3, 0)
    row = 4 * sum(d_in + d_out for d_out, d_in in SHAPES.values())
    assert metrics["bytes/up"] == metrics["bytes/down"] == 7 * row + 3 * 40


def test_flowers_own_loop_gives_the_same():
    """Whoever calls the hooks: the base class's loop, with one message type."""
    ours = start(RankStrategy(), grid())
    theirs = Strategy.start(RankStrategy(), grid(), initial(), num_rounds=2, timeout=2)
    assert apart(from_arrays(ours.arrays), from_arrays(theirs.arrays)) == 0


def test_a_run_goes_on_from_what_is_saved(tmp_path: Path):
    whole = start(RankStrategy(), grid(), rounds=3)
    saved = {"saved": tmp_path / "state"}
    start(RankStrategy(**saved), grid(), rounds=1)
    seen: list[int] = []

    def evaluate(number: int, arrays: ArrayRecord) -> MetricRecord:
        seen.append(number)
        return MetricRecord({"norm": float(np.linalg.norm(arrays["model.q.lora_B.weight"].numpy()))})

    more = start(RankStrategy(**saved), grid({**RANKS, 14: 2}), rounds=2, evaluate_fn=evaluate)  # a node has come
    assert seen == [2]
    assert more.evaluate_metrics_serverapp[2]["norm"] > 0
    end = start(RankStrategy(**saved, min_available_nodes=3), grid(), rounds=3)  # and gone
    assert apart(from_arrays(whole.arrays), from_arrays(end.arrays)) > 0  # round 2 had one client more
    with pytest.raises(RunFolderError, match="another configuration"):
        start(RankStrategy("zero_padding", **saved), grid())


def test_without_nodes_the_run_waits_and_then_stops_saved(tmp_path: Path):
    nodes = grid()

    def evaluate(number: int, _: ArrayRecord) -> MetricRecord | None:
        nodes.absent = {11, 12} if number == 1 else set()
        return None

    with pytest.raises(FlowerError, match=r"1 nodes after 0.3 s, expected 2"):
        RankStrategy(saved=tmp_path).start(nodes, initial(), num_rounds=3, timeout=0.3, evaluate_fn=evaluate)
    nodes.absent = set()
    end = start(RankStrategy(saved=tmp_path), nodes, rounds=3)
    assert apart(from_arrays(end.arrays), from_arrays(start(RankStrategy(), grid(), rounds=3).arrays)) == 0


Change = Callable[[RecordDict], None]


def _arrays(change: Callable[[np.ndarray], np.ndarray], end: str = ".lora_A.weight") -> Change:
    def changed(content: RecordDict) -> None:
        for name, array in content.array_records["arrays"].items():
            if name.endswith(end):
                content.array_records["arrays"][name] = Array(np.ascontiguousarray(change(array.numpy())))

    return changed


def _examples(value: float) -> Change:
    return lambda content: content.__setitem__("metrics", MetricRecord({"num-examples": value}))


HOSTILE: dict[str, tuple[Change, str]] = {
    "rank 1": (_arrays(lambda v: v[:1]), r"shape \(1, 5\), expected"),
    "B transposed": (_arrays(np.transpose, ".lora_B.weight"), "shape"),
    "NaN": (_arrays(lambda v: v * np.float32("nan")), "NaN or infinite"),
    "1e30": (_arrays(lambda v: v * 0 + np.float32(1e30)), r"1e\+30"),
    "a missing key": (lambda c: c.array_records["arrays"].pop("classifier.weight"), "missing tensors"),
    "no arrays": (lambda c: c.pop("arrays"), "no record of arrays 'arrays'"),
    "no metrics": (lambda c: c.pop("metrics"), "0 records of metrics, expected one with num-examples"),
    "weight 0": (_examples(0), "num-examples is 0, expected more than 0"),
    "a negative weight": (_examples(-3), "num-examples is -3"),
    "weight 1e12": (_examples(1e12), "at most 10000000"),
    "weight NaN": (_examples(float("nan")), "num-examples is nan"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_reply_changes_nothing_and_is_named(caplog: pytest.LogCaptureFixture, kind: str):
    change, reason = HOSTILE[kind]
    silent, nodes = grid(), grid()

    def nothing(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "train":
            raise RuntimeError("no reply today")
        return silent.app(message, context)

    def hostile(message: Message, context: Context) -> Message:
        reply = nodes.app(message, context)
        if message.metadata.message_type == "train":
            change(reply.content)
        return reply

    silent.changed[12], nodes.changed[12] = nothing, hostile
    without = start(RankStrategy(repeats=0), silent, rounds=1)
    found = start(RankStrategy(repeats=0), nodes, rounds=1)
    assert apart(from_arrays(without.arrays), from_arrays(found.arrays)) == 0
    assert found.train_metrics_clientapp[1]["dropped"] == 1
    assert re.search(rf"12 .*gave no good reply: .*{reason}", caplog.text)


def test_too_few_replies_are_asked_for_again_and_then_the_run_stops(tmp_path: Path):
    nodes, asked = grid(), []

    def failing(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "train":
            asked.append(message)
            if len(asked) != 2:
                raise RuntimeError("out of memory")
        return nodes.app(message, context)

    nodes.changed[13] = failing
    strategy = RankStrategy(min_replies=3, saved=tmp_path)
    with pytest.raises(FlowerError, match=r"2 good replies after 2 attempts, expected 3 .*13: .*out of memory"):
        start(strategy, nodes)
    assert len(asked) == 4
    assert len(sent(nodes)) == 3 + 1 + 3 + 1  # who had replied is not asked again
    nodes.changed.clear()
    end = start(RankStrategy(min_replies=3, saved=tmp_path), nodes)
    assert apart(from_arrays(end.arrays), from_arrays(start(RankStrategy(), grid()).arrays)) == 0


def test_ranks_by_policy_and_by_validation():
    """Nodes that declare nothing get the policy's; the paper's policy scores each client once, by the server's loss."""
    given = RanksConfig(policy="fixed", levels=[2, 4], counts=[2, 1], scaling="lora", alpha=8.0)
    strategy = RankStrategy(ranks=given)
    start(strategy, grid({11: 1, 12: None, 13: None, 14: None}), rounds=1)
    assert strategy.state is not None
    assert strategy.state.ranks == {"11": 1, "12": 4, "13": 2, "14": 2}
    assert strategy.state.scales == {"11": 8.0, "12": 2.0, "13": 4.0, "14": 4.0}

    losses = iter((3.0, float("nan"), 1.0, 2.0))
    seen: list[int] = []

    def validate(arrays: ArrayRecord) -> float:
        seen.append(arrays["model.q.lora_A.weight"].numpy().shape[0])
        return next(losses)

    nodes = grid(dict.fromkeys((11, 12, 13, 14), None))
    policy = RanksConfig(policy="validation", levels=[2, 4], counts=[2, 2])
    strategy = RankStrategy(ranks=policy, validate=validate, declared=False, fraction_train=0.5)
    start(strategy, nodes)
    assert strategy.state is not None
    assert strategy.state.ranks == {"11": 2, "12": 2, "13": 4, "14": 4}
    assert len(seen) == 4
    assert len(sent(nodes)) == 4 + 2 + 2
    assert {m.metadata.message_type for m in nodes.sent} == {"train"}


def test_a_server_that_validates_weighs_by_it_and_chooses():
    """In each round two clients and three results are measured; what is worst counts least."""
    asked: list[int] = []

    def validate(arrays: ArrayRecord) -> float:
        asked.append(arrays["model.q.lora_A.weight"].numpy().shape[0])
        return 40.0 * (len(asked) % 5 == 1)  # the first client of each round is 40 nats worse: as good as not there

    nodes = grid(dict.fromkeys((11, 12, 13, 14), None))
    result = start(RankStrategy("validated", validate=validate, declared=False, fraction_train=0.5), nodes, rounds=2)
    assert len(asked) == 2 * (2 + 3)
    assert result.arrays is not None
    plain = start(RankStrategy("owner_mean", declared=False, fraction_train=0.5), grid(dict.fromkeys((11, 12, 13, 14))))
    assert apart(from_arrays(result.arrays), from_arrays(plain.arrays)) > 0


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"method": "validated"}, "weighs clients by what the server measures; expected validate"),
        ({"method": "fedsa"}, "fedsa needs clients that know of it"),
        ({"method": "flora"}, "flora needs clients that know of it"),
        ({"method": "fslora"}, "fslora needs clients that know of it"),
        ({"method": "fed_plora"}, "fed_plora needs clients that know of it"),
        ({"method": "lora_a2"}, "lora_a2 needs clients that know of it"),
        ({"method": "replicatoin"}, "replication"),
        ({"fraction_train": 0.0}, "fraction_train is 0.0"),
        ({"min_available_nodes": 0}, "min_available_nodes is 0"),
        ({"repeats": -1}, "repeats is -1"),
        ({"min_replies": -1}, "min_replies is -1"),
        ({"most_examples": 0}, "most_examples is 0"),
        ({"ranks": RanksConfig(policy="validation", levels=[2, 4])}, "expected validate"),
        ({"ranks": RanksConfig(policy="self_pruning", levels=[4])}, "self_pruning"),
    ],
)
def test_what_cannot_be_is_refused_at_once(given: dict[str, Any], reason: str):
    with pytest.raises(ConfigError, match=reason):
        RankStrategy(**given)


def test_what_does_not_fit_is_refused_before_training():
    nodes = grid({11: 8, 12: 2})
    with pytest.raises(FlowerError, match="node 11: it declares rank 8; the initial arrays have 4"):
        start(RankStrategy(), nodes)
    with pytest.raises(FlowerError, match="node 12: it declares rank 2; fedavg needs clients of equal ranks, 4"):
        start(RankStrategy("fedavg"), grid())
    with pytest.raises(ConfigError, match=r"ranks.levels has 8"):
        start(RankStrategy(ranks=RanksConfig(policy="fixed", levels=[8])), grid())
    with pytest.raises(ConfigError, match="put it into train_config"):
        start(RankStrategy(), grid(), evaluate_config=ConfigRecord())
    plain = InProcess(ClientApp(), {11: {"lora-rank": 2}})
    with pytest.raises(FlowerError, match=r"0 nodes after 0.2 s, expected 2; .*No query function"):
        RankStrategy().start(plain, initial(), timeout=0.2)
    with pytest.raises(FlowerError, match=r"node 11: its lora-rank is 'five'"):
        RankStrategy().start(InProcess(client(), {11: {"lora-rank": "five"}}), initial(), timeout=0.2)
    assert not sent(nodes)


def test_arrays_that_are_no_adapter():
    arrays = initial()
    assert apart(from_arrays(to_arrays(from_arrays(arrays))), from_arrays(arrays)) == 0
    without = copy.deepcopy(arrays)
    without.pop("model.v.lora_B.weight")
    with pytest.raises(FlowerError, match=r"no model\.v\.lora_B\.weight"):
        from_arrays(without)
    with pytest.raises(FlowerError, match=r"no LoRA factors: found classifier\.weight"):
        from_arrays(ArrayRecord({"classifier.weight": Array(np.ones((2, 5), dtype=np.float32))}))


class Words(torch.nn.Module):
    """Eleven words of width 8, and a layer of five outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.fc = torch.nn.Embedding(11, 8), torch.nn.Linear(8, 5)
        self.convolution = torch.nn.Conv1d(8, 8, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.fc(self.words(ids))


def peft_model(rank: int, **options: Any) -> peft.PeftModel:
    torch.manual_seed(rank)
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, init_lora_weights=False, **options)
    made = peft.get_peft_model(Words(), config)
    assert isinstance(made, peft.PeftModel)
    return made


def arrays_of(model: peft.PeftModel) -> ArrayRecord:
    stored = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    return ArrayRecord({name: Array(np.ascontiguousarray(tensor.numpy())) for name, tensor in stored.items()})


def test_lora_of_an_embedding_is_cut_to_the_rank_and_averaged():
    """PEFT loads what a client of rank 2 is sent, and its delta is that of the first two of four rank indices.

    ``flexlora`` of one client of full rank gives its product back: the embedding's and the layer's, to rounding.
    """
    whole = peft_model(4, target_modules=["words", "fc"])
    arrays = arrays_of(whole)
    adapter = from_arrays(arrays)
    assert to_arrays(adapter).keys() == arrays.keys()
    small = peft_model(2, target_modules=["words", "fc"])
    cut = to_arrays(adapter.prefix(2))
    loaded = peft.set_peft_model_state_dict(small, {k: torch.from_numpy(v.numpy().copy()) for k, v in cut.items()})
    assert not loaded.unexpected_keys
    a, b = (arrays[f"base_model.model.words.lora_embedding_{part}"].numpy() for part in "AB")
    expected = 2.0 * (b[:, :2] @ a[:2]).T  # alpha / rank is 2, and PEFT's delta of an embedding is (words, width)
    assert np.allclose(small.base_model.model.words.get_delta_weight("default").detach().numpy(), expected, atol=1e-6)

    state = ServerState(0, adapter, {"1": 4}, {"1": 1.0})
    update = ClientUpdate("1", adapter, 1.0, {})
    strategy = RankStrategy("flexlora")
    after = aggregate(state, [update], strategy.method, uniform=False, local_head=False).state.adapter
    for name, own in adapter.modules.items():
        torch.testing.assert_close(after.modules[name].delta(), own.delta(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"target_modules": ["fc"], "use_dora": True}, r"fc\.lora_magnitude_vector.* \(DoRA's magnitudes\)"),
        ({"target_modules": ["fc"], "lora_bias": True}, r"fc\.lora_B\.bias \(a bias of B\)"),
        ({"target_modules": ["convolution", "fc"]}, r"convolution\.lora_A\.weight has shape \(4, 8, 3\)"),
        ({"target_modules": ["fc"], "trainable_token_indices": {"words": [1]}}, r"trainable_tokens_delta"),
    ],
)
def test_what_is_more_than_lora_is_refused_by_name(options: dict[str, Any], reason: str):
    model = peft_model(4, **options)
    with pytest.raises(FlowerError, match=reason):
        from_arrays(arrays_of(model))


def test_arrays_that_cannot_be_averaged_are_refused_by_name():
    arrays = initial()
    arrays["model.positions"] = Array(np.arange(3))
    with pytest.raises(FlowerError, match=r"model\.positions is int64; expected fractions"):
        from_arrays(arrays)
