from __future__ import annotations

import re
import warnings
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from peft.tuners.lora import LoraLayer

from polyrank.config import ModelConfig, TrainingConfig
from polyrank.core.adapter import Adapter, Factors
from polyrank.core.errors import AdapterError, ModelError
from polyrank.hf.load import load_base
from polyrank.hf.merged import merge_into
from polyrank.hf.resident import SLOT, ResidentModel
from polyrank.training.sequential import Sequential
from polyrank.training.work import Work
from tests.models import (
    ARCHITECTURES,
    LABELS,
    TASK,
    WORDS,
    Checkpoints,
    batch,
    examples,
    logits,
    random_adapter,
    resident,
    updates,
)
from tests.versions import as_tested

BOTH_HEADS = [(architecture, head) for architecture in ARCHITECTURES for head in ("model", "mean-pool")]

QUERY = "bert.encoder.layer.0.attention.self.query"


@pytest.fixture
def bert(checkpoint: Checkpoints) -> ResidentModel:
    return resident(checkpoint("bert"), head="model")


def in_order(parts: set[str]) -> str:
    """A name of the parts that is the same in every process."""
    return "-".join(sorted(parts))


def frozen(model: ResidentModel) -> dict[str, torch.Tensor]:
    """A copy of all that must never change: parameters without gradient, and buffers."""
    parameters = {name: p.detach().clone() for name, p in model.model.named_parameters() if not p.requires_grad}
    return parameters | {name: buffer.clone() for name, buffer in model.model.named_buffers()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(("architecture", "head"), BOTH_HEADS)
def test_the_initial_adapter_changes_nothing(checkpoint: Checkpoints, architecture: str, head: str):
    """B is zero, so the logits are those of the base under its new head."""
    folder = checkpoint(architecture)
    plain = load_base(ModelConfig(name=str(folder), head=head), LABELS)
    model = resident(folder, head=head)
    inputs = batch(model)
    model.install(model.initial(2, 2.0, seed=1))
    expected = logits(plain.model, inputs)  # of the whole last layer, where ours may compute its first token only
    torch.testing.assert_close(logits(model.model, inputs), expected, rtol=1e-5, atol=1e-5)


def test_the_initial_adapter_is_seeded(bert: ResidentModel):
    """A is uniform within sqrt(6 / ((1 + 5) d_in)) = 1 / sqrt(16) = 1/4."""
    adapter = bert.initial(4, 0.5, seed=1)
    torch.manual_seed(5)
    assert adapter.identical(bert.initial(4, 0.5, seed=1))
    assert not adapter.identical(bert.initial(4, 0.5, seed=2))
    for factors in adapter.modules.values():
        assert factors.scale == 0.5
        assert not factors.b.any()
        assert 0.15 < factors.a.abs().max() <= 0.25
    first, second = list(adapter.modules.values())[:2]
    assert not torch.equal(first.a, second.a)


@pytest.mark.parametrize(("architecture", "head"), BOTH_HEADS)
def test_what_is_installed_comes_out_again(checkpoint: Checkpoints, architecture: str, head: str):
    """Bit for bit, with ranks and scales of their own per module, one client after another."""
    model = resident(checkpoint(architecture), head=head)
    before = frozen(model)
    for seed, rank, uneven in ((0, 3, True), (1, 5, True), (2, 1, False), (3, 4, False), (3, 4, False)):
        adapter = random_adapter(model, seed, rank=rank, uneven=uneven)
        model.install(adapter)
        assert model.extract().identical(adapter)
    assert same(frozen(model), before)


def test_what_comes_out_is_a_copy(bert: ResidentModel):
    adapter = random_adapter(bert)
    bert.install(adapter)
    out = bert.extract()
    bert.install(random_adapter(bert, seed=1))
    assert out.identical(adapter)


def test_what_goes_in_is_copied(bert: ResidentModel):
    adapter, untouched = random_adapter(bert), random_adapter(bert)
    bert.install(adapter)
    with torch.no_grad():
        for parameter in bert.trainable():
            parameter.add_(1)
    assert adapter.identical(untouched)


def test_adapters_are_held_in_float32(bert: ResidentModel):
    half = random_adapter(bert).map(lambda tensor: tensor.to(torch.bfloat16))
    bert.install(half)
    assert bert.extract().identical(half.map(lambda tensor: tensor.float()))


def test_gradients_of_the_client_before_are_gone(bert: ResidentModel):
    adapter = random_adapter(bert)
    bert.install(adapter)
    inputs = batch(bert)
    bert.model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in bert.trainable())
    bert.install(adapter)
    assert all(parameter.grad is None for parameter in bert.trainable())


@pytest.mark.parametrize(("architecture", "head"), BOTH_HEADS)
@pytest.mark.parametrize("targets", ["default", "all-linear"])
def test_delta_is_what_the_model_computes(checkpoint: Checkpoints, architecture: str, head: str, targets: str):
    """Logits under the adapter are those of the model whose weights have the deltas added."""
    folder = checkpoint(architecture)
    model = resident(folder, head=head, targets=targets)
    inputs = batch(model)
    dense = load_base(ModelConfig(name=str(folder), head=head), LABELS)
    bare = logits(dense.model, inputs)
    adapter = random_adapter(model, rank=6)
    model.install(adapter)
    merge_into(dense, adapter)
    expected = logits(dense.model, inputs)
    torch.testing.assert_close(logits(model.model, inputs), expected, rtol=1e-4, atol=1e-4)
    assert (expected - bare).abs().max() > 0.05


@pytest.mark.parametrize(("architecture", "head"), BOTH_HEADS)
def test_trainable_is_lora_and_head_only(checkpoint: Checkpoints, architecture: str, head: str):
    model = resident(checkpoint(architecture), head=head, targets="all-linear")
    model.install(random_adapter(model))
    trainable = {id(parameter) for parameter in model.trainable()}
    assert trainable == {id(p) for p in model.model.parameters() if p.requires_grad}
    heads = model.base.head_modules
    for name, parameter in model.model.named_parameters():
        assert (id(parameter) in trainable) == ("lora_" in name or name.startswith(heads))
    assert not any(isinstance(m, LoraLayer) for head in heads for m in model.model.get_submodule(head).modules())
    assert model.extract().dense.keys() == {
        name for name, _ in model.model.named_parameters() if name.startswith(heads)
    }


@pytest.mark.parametrize(("architecture", "head"), BOTH_HEADS)
def test_training_leaves_the_base_as_it_was(checkpoint: Checkpoints, architecture: str, head: str):
    """Three clients of ranks 1, 3 and 5: bit for bit, and in the same memory."""
    model = resident(checkpoint(architecture), head=head)
    before = frozen(model)
    places = {name: p.data_ptr() for name, p in model.model.named_parameters() if not p.requires_grad}
    works = [Work(str(rank), 1, model.initial(rank, 2.0, 0), seed=rank) for rank in (1, 3, 5)]
    held = dict.fromkeys(("1", "3", "5"), examples(model, 4))
    engine = Sequential(model, TASK, held, TrainingConfig(lr=0.1, batch_size=2, weight_decay=0.1))
    for work, update in zip(works, updates(engine, works), strict=True):
        assert {f.rank for f in update.adapter.modules.values()} == {int(update.client)}
        assert any(f.b.any() for f in update.adapter.modules.values())
        head_before, head_after = work.adapter.dense, update.adapter.dense
        assert all(not torch.equal(head_before[name], head_after[name]) for name in head_before)
    assert same(frozen(model), before)
    assert places == {name: p.data_ptr() for name, p in model.model.named_parameters() if not p.requires_grad}


def without(adapter: Adapter, *names: str) -> Adapter:
    return Adapter(
        {name: factors for name, factors in adapter.modules.items() if name not in names},
        {name: tensor for name, tensor in adapter.dense.items() if name not in names},
    )


def broken_adapters(good: Adapter) -> dict[str, tuple[Adapter, list[str]]]:
    """Kind -> an adapter that does not fit, and what the error must say."""
    wide = Factors(torch.ones(2, 17), torch.ones(16, 2))
    return {
        "module missing": (without(good, QUERY), [f"{QUERY} is missing"]),
        "head missing": (without(good, "classifier.bias"), ["classifier.bias is missing"]),
        "module unknown": (
            replace(good, modules={**good.modules, "bert.extra": wide}),
            ["bert.extra is not part of the model"],
        ),
        "tensor unknown": (
            replace(good, dense={**good.dense, "bert.pooler.dense.bias": torch.ones(16)}),
            ["bert.pooler.dense.bias is not part of the model"],
        ),
        "module's shape": (
            replace(good, modules={**good.modules, QUERY: wide}),
            [f"{QUERY} is for 16 x 17", "the layer is 16 x 16"],
        ),
        "head's shape": (
            replace(good, dense={**good.dense, "classifier.bias": torch.ones(3)}),
            ["classifier.bias has shape (3,), expected (2,)"],
        ),
        "two at once": (without(good, QUERY, "classifier.bias"), [f"{QUERY} is missing", "classifier.bias is missing"]),
        "empty": (Adapter({}), [f"{QUERY} is missing", "classifier.weight is missing"]),
    }


@pytest.mark.parametrize("kind", broken_adapters(Adapter({})))
def test_an_adapter_that_does_not_fit(bert: ResidentModel, kind: str):
    """All that is wrong is named, and what was installed stays."""
    good = random_adapter(bert)
    bert.install(good)
    bad, said = broken_adapters(random_adapter(bert, seed=1))[kind]
    with pytest.raises(AdapterError) as error:
        bert.install(bad)
    assert all(part in str(error.value) for part in said)
    assert bert.extract().identical(good)


def test_rank_above_a_layer(checkpoint: Checkpoints):
    """ALBERT's embeddings of 8 are mapped to 16: rank 9 is one too many."""
    model = resident(checkpoint("albert"), head="model")
    model.check_rank(8)
    with pytest.raises(ModelError) as error:
        model.initial(9, 1.0, 0)
    for part in ("rank 9", "embedding_hidden_mapping_in", "16 x 8", "at most 8"):
        assert part in str(error.value)


@pytest.mark.parametrize("head", ["model", "mean-pool"])
def test_a_token_without_an_embedding(checkpoint: Checkpoints, head: str):
    model = resident(checkpoint("bert"), head=head)
    model.check_tokens(len(WORDS) - 1)
    with pytest.raises(ModelError, match=rf"token {len(WORDS)} of the data, but the model has {len(WORDS)} embeddings"):
        model.check_tokens(len(WORDS))


@pytest.mark.parametrize(
    ("targets", "found"),
    [
        (["query"], {"query"}),
        ("query", {"query"}),
        (["query", "output.dense"], {"query", "dense"}),
        (QUERY, {"query"}),
        (r".*layer\.1\..*(query|key)", {"query", "key"}),
        ("default", {"query", "value"}),
        ("all-linear", {"query", "key", "value", "dense"}),
    ],
)
def test_targets(checkpoint: Checkpoints, targets: str | list[str], found: set[str]):
    model = resident(checkpoint("bert"), head="model", targets=targets)
    assert {name.rpartition(".")[2] for name in model.shapes} == found


def test_targets_of_an_unknown_architecture_are_all_linear_layers(checkpoint: Checkpoints):
    """PEFT knows nothing of DistilBERT: 2 layers of q, k, v, out, lin1 and lin2."""
    model = resident(checkpoint("distilbert"))
    assert len(model.shapes) == 12
    assert model.shapes["distilbert.transformer.layer.0.ffn.lin1"] == (24, 16)


def test_shapes_of_transposed_layers(checkpoint: Checkpoints):
    """GPT-2 keeps weights as (in, out); shapes are (out, in) all the same."""
    model = resident(checkpoint("gpt2"), head="model")
    assert model.shapes == {f"transformer.h.{i}.attn.c_attn": (48, 16) for i in range(2)}


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (["valeu"], "did you mean 'value'?"),
        (["query", "valeu"], "did you mean 'value'?"),
        ("valeu", "'valeu'"),
        ([], "[]"),
        (["classifier"], "outside of its head"),
        (["LayerNorm"], "LayerNorm; only linear layers"),
        (["attention"], "query, value"),
        ("(query", "'(query' is no pattern"),
        (["word_embeddings"], "word_embeddings is the embeddings of"),
        (["position_embeddings"], "Embedding; only linear layers"),
        (r".*nothing.*", "nothing"),
    ],
)
def test_targets_that_are_not_there(checkpoint: Checkpoints, targets: str | list[str], said: str):
    with pytest.raises(ModelError) as error:
        resident(checkpoint("bert"), head="model", targets=targets)
    assert said in str(error.value)
    assert "model.targets" in str(error.value)


def test_the_parts_of_a_new_head_get_no_lora(checkpoint: Checkpoints):
    """RoBERTa's head has two layers: new, they are trained whole; where the first was saved, it gets LoRA."""
    new = resident(checkpoint("roberta"), head="model", targets="all-linear")
    assert not any(name.startswith("classifier") for name in new.shapes)
    partly = resident(checkpoint("roberta", classifier=3), targets="all-linear")
    assert [name for name in partly.shapes if name.startswith("classifier")] == ["classifier.dense"]
    assert partly.extract().dense.keys() == {"classifier.out_proj.weight", "classifier.out_proj.bias"}


def test_dropout_is_before_a_and_in_training_only(checkpoint: Checkpoints):
    """The base has no dropout here, so that all of it comes from the adapter's."""
    bare = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    dropping = resident(checkpoint("bert"), dropout=0.5, head="model", config=bare)
    plain = resident(checkpoint("bert"), head="model", config=bare)
    inputs = batch(plain)
    outputs = []
    for model in (plain, dropping):
        model.install(random_adapter(model))
        evaluated = logits(model.model, inputs)
        model.model.train()
        torch.manual_seed(0)
        trained = model.model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask).logits.detach()
        outputs.append((evaluated, trained))
    (expected, same_in_training), (evaluated, dropped) = outputs
    assert torch.equal(expected, same_in_training)
    assert torch.equal(expected, evaluated)
    assert not torch.allclose(expected, dropped)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_attention_can_be_switched(checkpoint: Checkpoints, architecture: str):
    for head in ("model", "mean-pool"):
        model = resident(checkpoint(architecture), head=head, attention="eager")
        model.install(random_adapter(model))
        inputs = batch(model)
        eager = logits(model.model, inputs)
        if architecture == "modernbert" and not as_tested("transformers") and not model.set_attention("sdpa"):
            pytest.skip("this version of transformers cannot switch ModernBERT")
        assert model.set_attention("sdpa")
        torch.testing.assert_close(logits(model.model, inputs), eager, rtol=1e-4, atol=1e-4)
        assert model.set_attention("eager")
        assert torch.equal(logits(model.model, inputs), eager)


def test_attention_that_is_lacking(checkpoint: Checkpoints, capfd: pytest.CaptureFixture[str]):
    for head in ("model", "mean-pool"):
        model = resident(checkpoint("deberta-v2"), head=head)
        assert not model.set_attention("sdpa")
        assert model.set_attention("eager")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("head", ["model", "mean-pool"])
@pytest.mark.parametrize("architecture", ["bert", "modernbert", "gpt2", "llama"])
def test_bfloat16_base_under_float32_adapters(checkpoint: Checkpoints, architecture: str, head: str):
    """Near the float32 model (bfloat16 has 8 bits), with float32 gradients."""
    folder = checkpoint(architecture)
    exact, half = (resident(folder, head=head, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    adapter = exact.initial(2, 2.0, 0)
    inputs = batch(exact)
    found = []
    for model in (exact, half):
        model.install(adapter)
        with model.computing():
            found.append(model.model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask).logits)
    assert (found[0] - found[1]).abs().max() < 0.15
    found[1].float().sum().backward()
    assert {parameter.grad.dtype for parameter in half.trainable() if parameter.grad is not None} == {torch.float32}


def test_padding_does_not_change_logits(checkpoint: Checkpoints):
    """Also of decoders, whose padding token is their end token."""
    for architecture, head in BOTH_HEADS:
        model = resident(checkpoint(architecture), head=head)
        model.install(random_adapter(model))
        inputs = batch(model)
        together = logits(model.model, inputs)
        for row in range(len(together)):
            length = int(inputs.attention_mask[row].sum())
            single = replace(
                inputs,
                input_ids=inputs.input_ids[row : row + 1, :length],
                attention_mask=inputs.attention_mask[row : row + 1, :length],
            )
            torch.testing.assert_close(logits(model.model, single)[0], together[row], rtol=1e-3, atol=1e-3)


def test_no_warning_reaches_the_user(checkpoint: Checkpoints, capfd: pytest.CaptureFixture[str]):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for architecture in ARCHITECTURES:
            model = resident(checkpoint(architecture), head="model")
            model.install(random_adapter(model))
            logits(model.model, batch(model))
    assert capfd.readouterr() == ("", "")


def factors_only(adapter: Adapter) -> Adapter:
    return Adapter(adapter.modules)


@pytest.mark.parametrize(("architecture", "head"), BOTH_HEADS)
@pytest.mark.parametrize("targets", ["default", "all-linear"])
def test_a_base_change_is_its_delta_added_to_the_weights(
    checkpoint: Checkpoints, architecture: str, head: str, targets: str
):
    """Of other ranks and scales than the adapter's; without it the logits are, bit for bit, what they were."""
    folder = checkpoint(architecture)
    model = resident(folder, head=head, targets=targets)
    inputs = batch(model)
    dense = load_base(ModelConfig(name=str(folder), head=head), LABELS)
    adapter, change = random_adapter(model), factors_only(random_adapter(model, seed=1, rank=5))
    model.install(adapter)
    without = logits(model.model, inputs)
    merge_into(dense, change)
    merge_into(dense, adapter)
    expected = logits(dense.model, inputs)
    model.install(adapter, change)
    torch.testing.assert_close(logits(model.model, inputs), expected, rtol=1e-4, atol=1e-4)
    assert (expected - without).abs().max() > 0.05
    assert model.extract().identical(adapter)
    model.install(adapter)
    assert torch.equal(logits(model.model, inputs), without)


def test_one_base_change_after_another(bert: ResidentModel):
    """Of other ranks, of some modules only, and again none: each time only the last one counts."""
    inputs, adapter = batch(bert), random_adapter(bert)
    first, second = (factors_only(random_adapter(bert, seed=seed, rank=rank)) for seed, rank in ((1, 5), (2, 2)))
    partial = Adapter({QUERY: second.modules[QUERY]})
    found = []
    for change in (first, second, partial, None, partial, second, first):
        bert.install(adapter, change)
        found.append(logits(bert.model, inputs))
    assert all(torch.equal(one, other) for one, other in zip(found, found[::-1], strict=True))
    assert all(not torch.equal(one, other) for one, other in pairwise(found[:4]))


def test_the_base_change_of_a_deep_model_reaches_its_own_modules_only(checkpoint: Checkpoints):
    """Four layers of six linear modules: PEFT shortens lists of 20 names and more to common endings."""
    folder = checkpoint("bert", num_hidden_layers=4)
    model = resident(folder, head="model", targets=[QUERY, *(f"layer.{i}.output.dense" for i in range(1, 4))])
    adapter, change = random_adapter(model), factors_only(random_adapter(model, seed=1))
    whole = resident(folder, head="model", targets="all-linear")
    assert len(whole.shapes) > 20
    for it in (model, whole):
        given = change if it is model else factors_only(random_adapter(whole, seed=2))
        it.install(random_adapter(it), given)
        dense = load_base(ModelConfig(name=str(folder), head="model"), LABELS)
        merge_into(dense, given)
        merge_into(dense, random_adapter(it))
        torch.testing.assert_close(logits(it.model, batch(it)), logits(dense.model, batch(it)), rtol=1e-4, atol=1e-4)
        names = {name for name, module in it.model.named_modules() if isinstance(module, LoraLayer)}
        assert names == set(it.shapes)
    assert model.extract().dense.keys() == adapter.dense.keys()


def test_a_base_change_is_copied_and_has_no_dropout(checkpoint: Checkpoints):
    """With a dropout of one half before the adapter's A, an adapter of zero leaves nothing to drop."""
    bare = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = resident(checkpoint("bert"), dropout=0.5, head="model", config=bare)
    change, untouched = (factors_only(random_adapter(model, seed=1)) for _ in range(2))
    model.install(model.initial(2, 2.0, 0), change)
    inputs = batch(model)
    evaluated = logits(model.model, inputs)
    model.model.train()
    trained = model.model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask).logits.detach()
    torch.testing.assert_close(trained, evaluated)
    for factors in change.modules.values():
        factors.b.zero_()
    assert torch.equal(logits(model.model, inputs), evaluated)
    assert not change.identical(untouched)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (Adapter({"bert.extra": Factors(torch.ones(2, 16), torch.ones(16, 2))}), "bert.extra"),
        (Adapter({QUERY: Factors(torch.ones(2, 17), torch.ones(16, 2))}), QUERY),
        (Adapter({}, {"classifier.bias": torch.ones(2)}), "classifier.bias"),
    ],
)
def test_a_base_change_that_does_not_fit(bert: ResidentModel, change: Adapter, said: str):
    """It is named, and what was installed stays: adapter and base change."""
    good, fitting = random_adapter(bert), factors_only(random_adapter(bert, seed=1))
    bert.install(good, fitting)
    before = logits(bert.model, batch(bert))
    with pytest.raises(AdapterError, match=rf"the base change does not fit .*: {re.escape(said)}$"):
        bert.install(random_adapter(bert, seed=2), change)
    assert torch.equal(logits(bert.model, batch(bert)), before)
    assert bert.extract().identical(good)
    with pytest.raises(AdapterError, match="is missing"):
        bert.install(Adapter({}), None)
    assert torch.equal(logits(bert.model, batch(bert)), before)


@pytest.mark.parametrize("with_change", [False, True])
@pytest.mark.parametrize("parts", [{"a"}, {"b"}, {"head"}, {"b", "head"}, {"a", "b", "head"}], ids=in_order)
def test_trainable_parts(bert: ResidentModel, parts: set[str], with_change: bool):
    """Others have no gradient; the base change never has one."""
    change = factors_only(random_adapter(bert, seed=1)) if with_change else None
    for chosen in ({"a", "b", "head"}, parts):  # what was trained before does not count
        bert.install(random_adapter(bert), change)
        parameters = bert.trainable(frozenset(chosen))
    inputs = batch(bert)
    bert.model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in parameters)
    kinds = {"a": f"lora_A.{SLOT}.", "b": f"lora_B.{SLOT}.", "head": "classifier."}
    for name, parameter in bert.model.named_parameters():
        expected = any(kinds[part] in name for part in parts)
        assert parameter.requires_grad == expected
        assert (parameter.grad is not None) == expected
        assert any(parameter is p for p in parameters) == expected


@pytest.mark.parametrize(("architecture", "head"), BOTH_HEADS)
@pytest.mark.parametrize("trains", [{"b"}, {"a", "head"}], ids=in_order)
def test_what_is_not_trained_does_not_change_by_a_bit(
    checkpoint: Checkpoints, architecture: str, head: str, trains: set[str]
):
    """Not by weight decay either, nor does the base change; what is trained changes in every module."""
    model = resident(checkpoint(architecture), head=head)
    adapter, change = random_adapter(model), factors_only(random_adapter(model, seed=1))
    model.install(adapter, change)
    before = frozen(model)
    held = {"ann": examples(model, 4)}
    engine = Sequential(model, TASK, held, TrainingConfig(lr=0.1, batch_size=2, weight_decay=0.1))
    (outcome,) = engine.run([Work("ann", 1, adapter, 0, base_change=change, trains=frozenset(trains))])
    assert outcome.trained.keys() == adapter.parts(trains).keys()
    extracted = model.extract()
    for name, factors in adapter.modules.items():
        after = extracted.modules[name]
        assert torch.equal(after.a, factors.a) == ("a" not in trains)
        assert torch.equal(after.b, factors.b) == ("b" not in trains)
    for name, tensor in adapter.dense.items():
        assert torch.equal(extracted.dense[name], tensor) == ("head" not in trains)
    now = {name: p.detach() for name, p in model.model.named_parameters()} | dict(model.model.named_buffers())
    unchanged = {
        name: t
        for name, t in before.items()
        if f".{SLOT}." not in name and not name.startswith(model.base.head_modules)
    }
    assert all(torch.equal(now[name], tensor) for name, tensor in unchanged.items())
    assert any("lora_A" in name for name in unchanged)  # the base change


def test_tails_are_the_last_rank_indices(bert: ResidentModel):
    """As views: a gradient through them reaches the factors."""
    adapter = random_adapter(bert, rank=3, uneven=False)
    bert.install(adapter)
    for (a, b), factors in zip(bert.tails(2), adapter.modules.values(), strict=True):
        assert torch.equal(a, factors.a[2:])
        assert torch.equal(b, factors.b[:, 2:])
        assert a.requires_grad
