from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, scaled_dot_product_attention

from polyrank.config import TrainingConfig
from polyrank.core.adapter import Adapter
from polyrank.training.batched.engine import Batched
from polyrank.training.dropout import ClientDropout, UnbatchableError
from polyrank.training.sequential import Sequential
from polyrank.training.streams import LEVELS, Stream, stream
from polyrank.training.work import Work
from tests.models import TASK, Checkpoints, examples, random_adapter, resident, updates

CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.bfloat16, torch.float64)


def own(rows: int, tokens: int = 1, seed: int = 0, step: int = 0, part: int = 0) -> Stream:
    return stream(seed, step, part, rows, tokens, device=CPU)


def alone(rows: int, tokens: int = 1, seed: int = 0, step: int = 0, part: int = 0) -> ClientDropout:
    """One client with nothing padded around it."""
    return ClientDropout([own(rows, tokens, seed, step, part)], rows, tokens)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def threshold(p: float) -> int:
    return round((1 - p) * LEVELS)


@pytest.mark.parametrize("p", [0.1, 0.5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_mean_variance_and_independence_of_a_mask(p: float, dtype: torch.dtype):
    """Of n = 2^19 ones: the share kept is 1 - p, the mean 1, the variance p / (1 - p), each to 5 standard deviations.

    p is met to 1 / 131,072 only, which the variance is given 1e-4 for. Beside them products of values 1 to 5 apart,
    since four values come from one number of 64 bits.
    """
    ones = torch.ones(64, 64, 128, dtype=dtype)
    with alone(64, 64):
        mask = dropout(ones, p).double().view(-1)
    n, noise = mask.numel(), 5 / mask.numel() ** 0.5
    rounding = 0 if dtype == torch.float64 else torch.finfo(dtype).eps
    kept = (mask != 0).double()
    assert kept.mean().item() == pytest.approx(1 - p, abs=noise * (p * (1 - p)) ** 0.5)
    assert mask.mean().item() == pytest.approx(1, abs=noise * (p / (1 - p)) ** 0.5 + rounding)
    fourth = p + (1 - p) * (p / (1 - p)) ** 4  # moment about 1, for the deviation of the second
    spread = (fourth - (p / (1 - p)) ** 2) ** 0.5
    assert ((mask - 1) ** 2).mean().item() == pytest.approx(p / (1 - p), abs=noise * spread + 4 * rounding + 1e-4 * p)
    centred = (kept - (1 - p)) / (p * (1 - p)) ** 0.5
    for lag in range(1, 6):
        assert abs((centred[lag:] * centred[:-lag]).sum().item() / n) < noise
    for axis in ((1, 2), (0, 2), (0, 1)):  # no row, no token and no feature is favoured
        shares = kept.view(64, 64, 128).mean(dim=axis)
        assert (shares - (1 - p)).abs().max() < 5 * (p * (1 - p) * len(shares) / n) ** 0.5


@pytest.mark.parametrize("p", [0.1, 0.5, 0.3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_are_scaled_or_zero(p: float, dtype: torch.dtype):
    """By what makes up for the threshold, to the dtype's rounding: a scale rounded by itself would show in bfloat16."""
    x = normal(40, 9, 7).to(dtype)
    with alone(40, 9):
        y = dropout(x, p)
    assert y.dtype == dtype
    kept = y != 0
    assert 0 < kept.sum() < x.numel()
    exact = x.double() * LEVELS / threshold(p)
    off = ((y.double() - exact) / exact)[kept]
    assert off.abs().max() <= torch.finfo(dtype).eps
    if dtype != torch.float64:  # where the exact value is known better: rounded to neither side
        assert abs(off.mean().item()) < torch.finfo(dtype).eps / 8


def test_everything_dropped():
    x = normal(2, 3)
    with alone(2):
        assert not dropout(x, 1.0).any()


def test_the_gradient_is_the_mask():
    """Bit for bit what the same stream makes of the gradient; and right by differences in float64."""
    x, g = normal(4, 5, 6).requires_grad_(), normal(4, 5, 6, seed=1)
    with alone(4, 5):
        dropout(x, 0.3).backward(g)
    with alone(4, 5):
        assert torch.equal(x.grad, dropout(g, 0.3))

    def fixed(x: Tensor) -> Tensor:
        with alone(4, 5):
            return dropout(dropout(x, 0.3) ** 2, 0.3)

    assert torch.autograd.gradcheck(fixed, (x,))


def ones(rows: int, tokens: int) -> list[Tensor]:
    """Hidden states, attention weights, those of the first token, a pooled vector, and hidden states once more."""
    shapes = ((tokens, 8), (2, tokens, tokens), (2, 1, tokens), (8,), (tokens, 3))
    return [torch.ones(rows, *shape) for shape in shapes]


def test_masks_do_not_depend_on_padding_and_neighbours():
    """Client by client, several sites one after another: its block is what it is alone, and no padding is dropped."""
    sizes = [(3, 5, 11), (4, 7, 12), (1, 2, 13)]
    expected = []
    for rows, tokens, seed in sizes:
        with alone(rows, tokens, seed):
            expected.append([dropout(x, 0.4) for x in ones(rows, tokens)])
    for order in ([0, 1, 2], [2, 0, 1], [0], [2]):
        pass_ = ClientDropout([own(*sizes[k]) for k in order], 4, 9)
        with pass_:
            found = [dropout(x, 0.4) for x in ones(4 * len(order), 9)]
        assert pass_.used
        for place, k in enumerate(order):
            for mask, alone_ in zip(found, expected[k], strict=True):
                block = mask[4 * place : 4 * place + 4].clone()
                inside = tuple(slice(size) for size in alone_.shape)
                assert torch.equal(block[inside], alone_)
                block[inside] = 1
                assert (block >= 1).all()


def test_steps_parts_seeds_and_sites_have_masks_of_their_own():
    def masks(seed: int, step: int, part: int) -> list[Tensor]:
        with alone(8, 4, seed, step, part):
            return [dropout(torch.ones(8, 4, 16), 0.5) for _ in range(2)]

    assert all(map(torch.equal, masks(0, 0, 0), masks(0, 0, 0)))
    different = [mask for place in product((0, 1), repeat=3) for mask in masks(*place)]
    for i, one in enumerate(different):
        for other in different[:i]:
            assert 0.4 < (one == other).float().mean() < 0.6  # 512 values: 4.5 standard deviations


def test_where_nothing_is_dropped_the_input_comes_back():
    """And nothing is drawn: the mask that follows is the first of the stream."""
    x, layer = normal(4, 5, 6), nn.Dropout(0.5)
    with alone(4, 5):
        first = dropout(x, 0.5)
    mode = alone(4, 5)
    with mode:
        assert dropout(x, 0.0) is x
        assert dropout(x, 0.5, training=False) is x
        assert layer.eval()(x) is x
        assert not mode.used
        assert torch.equal(layer.train()(x), first)
        assert mode.used


def test_the_global_generator_is_not_touched():
    before = torch.random.get_rng_state()
    with alone(4, 5):
        dropout(normal(4, 5, 6), 0.5)
        q = normal(4, 2, 5, 3)
        scaled_dot_product_attention(q, q, q, dropout_p=0.5)
    assert torch.equal(torch.random.get_rng_state(), before)


ROWS, HEADS, TOKENS, WIDTH = 3, 4, 6, 5


def attention_mask(kind: str) -> Tensor | None:
    """The last two tokens of each text but the first are padding."""
    seen = torch.ones(ROWS, 1, 1, TOKENS, dtype=torch.bool)
    seen[1:, ..., -2:] = False
    if kind == "float":
        return torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, -1e9) + normal(HEADS, TOKENS, TOKENS)
    return seen if kind == "bool" else None


@pytest.mark.parametrize("kind", ["none", "bool", "float", "causal", "grouped", "scaled"])
def test_attention_by_hand(kind: str):
    """Head by head in float64: softmax, then the mask that the stream gives first, then the values."""
    p = 0.3
    kv_heads = 2 if kind == "grouped" else HEADS
    query, key, value = (normal(ROWS, h, TOKENS, WIDTH, seed=h) for h in (HEADS, kv_heads, kv_heads))
    query = query.requires_grad_()
    seen = attention_mask(kind)
    scale = 0.17 if kind == "scaled" else None
    with alone(ROWS, TOKENS):
        mask = dropout(torch.ones(ROWS, HEADS, TOKENS, TOKENS, dtype=torch.float64), p)
    expected = torch.empty(ROWS, HEADS, TOKENS, WIDTH, dtype=torch.float64)
    for row in range(ROWS):
        for head in range(HEADS):
            shared = head // (HEADS // kv_heads)
            scores = query[row, head] @ key[row, shared].T * (scale or WIDTH**-0.5)
            for i in range(TOKENS):
                line = scores[i].clone()
                if kind == "causal":
                    line[i + 1 :] = -torch.inf
                elif kind == "bool":
                    line[~seen[row, 0, 0]] = -torch.inf
                elif kind == "float":
                    line += seen[row, head, i]
                expected[row, head, i] = (line.softmax(0) * mask[row, head, i]) @ value[row, shared]
    with alone(ROWS, TOKENS):
        found = scaled_dot_product_attention(
            *(query, key, value, seen, p),
            is_causal=kind == "causal",
            scale=scale,
            enable_gqa=kind == "grouped",
        )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    (want,) = torch.autograd.grad((expected**2).sum(), query)
    (have,) = torch.autograd.grad((found**2).sum(), query)
    torch.testing.assert_close(have, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float64])
def test_what_may_look_at_nothing_gets_zeros(dtype: torch.dtype):
    """As torch's own attention gives them, and gradients of 0; the other positions are as if it were not there."""
    seen = torch.ones(ROWS, 1, TOKENS, TOKENS, dtype=torch.bool)
    seen[1, 0, 3] = False
    mask = seen if dtype == torch.bool else torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, -torch.inf)
    query, key, value = (normal(ROWS, HEADS, TOKENS, WIDTH, seed=i).requires_grad_() for i in range(3))
    with alone(ROWS, TOKENS):
        found = scaled_dot_product_attention(query, key, value, mask, 0.3)
    with alone(ROWS, TOKENS):
        expected = scaled_dot_product_attention(query, key, value, dropout_p=0.3)
    blind = torch.zeros(ROWS, 1, TOKENS, 1, dtype=torch.bool)
    blind[1, 0, 3] = True
    assert torch.equal(scaled_dot_product_attention(query, key, value, mask)[1, :, 3], torch.zeros(HEADS, WIDTH))
    torch.testing.assert_close(found, expected.masked_fill(blind, 0.0), rtol=1e-12, atol=1e-12)
    gradients = torch.autograd.grad(found.square().sum(), (query, key, value))
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert not gradients[0][1, :, 3].any()


@pytest.mark.parametrize("kind", ["none", "bool", "float"])
def test_without_dropout_attention_goes_to_torch(kind: str):
    """In float32, where another order of the sums would show."""
    q, k, v = (normal(ROWS, HEADS, TOKENS, WIDTH, seed=i).float() for i in range(3))
    seen = attention_mask(kind)
    seen = seen.float() if kind == "float" else seen
    expected = scaled_dot_product_attention(q, k, v, attn_mask=seen)
    mode = alone(ROWS, TOKENS)
    with mode:
        assert torch.equal(scaled_dot_product_attention(q, k, v, attn_mask=seen), expected)
        assert torch.equal(scaled_dot_product_attention(q, k, v, seen, 0.0), expected)
    assert not mode.used


def two(rows: int = 3, tokens: int = 5) -> ClientDropout:
    return ClientDropout([own(rows, tokens, seed) for seed in (1, 2)], rows, tokens)


@pytest.mark.parametrize("shape", [(5, 6, 8), (3, 8), (5, 8)])
def test_rows_that_are_no_examples_are_refused(shape: Sequence[int]):
    """Tokens first, as XLNet has them; a table of positions, as DeBERTa drops it."""
    with two(), pytest.raises(UnbatchableError, match=r"drops values of a tensor of shape \(\d, "):
        dropout(torch.ones(tuple(shape)), 0.1)


def test_a_client_by_itself_may_drop_anything():
    """What is refused beside others is all its own here."""
    with alone(3, 5):
        mask = dropout(torch.ones(50, 80), 0.1)
    assert 0.85 < (mask != 0).float().mean() < 0.95


@pytest.mark.parametrize(
    "draw",
    [
        torch.bernoulli,
        torch.rand_like,
        lambda x: x.clone().normal_(),
        lambda x: nn.functional.dropout1d(x, 0.5),
    ],
)
def test_other_random_numbers_are_refused_for_several_clients(draw: Callable[[Tensor], Tensor]):
    """One client may draw them: the engine seeds torch's own generator with the client's seed."""
    x = torch.full((6, 5, 4), 0.5)
    with two(), pytest.raises(UnbatchableError, match="draws random numbers by "):
        draw(x)
    with torch.random.fork_rng(devices=[]), alone(6, 5):
        torch.manual_seed(0)
        first = draw(x)
        torch.manual_seed(0)
        assert torch.equal(draw(x), first)


class Noise(nn.Module):
    """What a model may draw by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x) if self.training else x


def test_a_models_own_noise_is_seeded_by_the_client(checkpoint: Checkpoints):
    """The same in both engines, client by client, whatever the global generator says; two in a pass are refused."""
    model = resident(checkpoint("bert"), dtype=torch.float64)
    model.model.get_submodule("bert.embeddings").dropout = Noise()
    works = [Work(f"c{i}", 1, random_adapter(model), i) for i in range(2)]
    held = dict.fromkeys(("c0", "c1"), examples(model, 5, seed=1))
    options = TrainingConfig(batch_size=4)
    ends = []
    for number, engine in enumerate((Sequential(model, TASK, held, options), Batched(model, TASK, held, options, 1))):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number)
            ends.append([update.adapter for update in updates(engine, works)])
    for one, other in zip(*ends, strict=True):
        for (name, tensor), (_, expected) in zip(one.tensors(), other.tensors(), strict=True):
            torch.testing.assert_close(tensor, expected, rtol=1e-8, atol=1e-10, msg=name)
    assert not any(torch.allclose(a, b) for (_, a), (_, b) in zip(*map(Adapter.tensors, ends[0]), strict=True))
    with pytest.raises(UnbatchableError, match="draws random numbers by randn_like"):
        list(Batched(model, TASK, held, options, 2).run(works))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    """The same properties from torch's generator there: share, scale, and masks that are the client's own."""
    device = torch.device("cuda")

    def mask(rows: int, tokens: int) -> Tensor:
        with ClientDropout([stream(3, 0, 0, 20, 30, device=device)], rows, tokens):
            return dropout(torch.ones(rows, tokens, 64, device=device), 0.1).cpu()

    first = mask(20, 30)
    assert first.unique().tolist() == pytest.approx([0.0, LEVELS / threshold(0.1)])
    assert (first != 0).float().mean().item() == pytest.approx(0.9, abs=5 * (0.09 / first.numel()) ** 0.5)
    assert torch.equal(mask(24, 33)[:20, :30], first)
