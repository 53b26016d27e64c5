import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyrank.core.errors import ConfigError, DataError
from polyrank.data import PARTITIONS, TextDataset, partition
from polyrank.data.partitions.quality_groups import BALANCED, SKEWED
from polyrank.data.partitions.size_groups import LARGE, SMALL

DRAWN = sorted(set(PARTITIONS) - {"by-column"})


def dataset(counts, columns=None):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    names = tuple(f"label {i}" for i in range(len(counts)))
    return TextDataset(tuple(f"t{i}" for i in range(len(labels))), labels, names, columns or {})


def largest_share(result, data):
    """Mean over clients of the share of the client's most frequent label."""
    counts = result.label_counts(data.labels, len(data.label_names)).values()
    return np.mean([count.max() / count.sum() for count in counts])


@pytest.mark.parametrize("name", DRAWN)
@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.integers(0, 40), min_size=2, max_size=6).filter(lambda counts: np.count_nonzero(counts) > 1),
    clients=st.integers(1, 12),
    seed=st.integers(0, 3),
    alpha=st.sampled_from([1e-3, 0.1, 1.0, 100.0]),
)
def test_no_example_has_two_clients_and_no_client_is_empty(name, counts, clients, seed, alpha):
    """All hand out everything; all but by-label and size-groups make sizes that differ by one at most."""
    data = dataset(counts)
    options = {"alpha": alpha} if "alpha" in PARTITIONS.options(name) else {}
    try:
        result = partition(data, name, clients, seed=seed, options=options)
    except DataError:
        short = min(count for count in counts if count) < clients
        assert clients > len(data) or (name == "by-label" and (clients < np.count_nonzero(counts) or short))
        return
    handed_out = np.concatenate(list(result.examples.values()))
    assert sorted(handed_out) == list(range(len(data)))
    assert list(result.examples) == sorted(result.examples)
    sizes = [len(at) for at in result.examples.values()]
    assert len(sizes) == clients
    assert min(sizes) >= 1
    assert all((np.diff(at) > 0).all() and at.dtype == np.int64 for at in result.examples.values())
    if name not in ("by-label", "size-groups"):
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("name", DRAWN)
def test_the_seed_decides(name):
    data = dataset([50, 50, 50])
    first, again, other = (partition(data, name, 5, seed=seed) for seed in (0, 0, 1))
    assert [at.tolist() for at in first.examples.values()] == [at.tolist() for at in again.examples.values()]
    assert first.groups == again.groups
    assert [at.tolist() for at in first.examples.values()] != [at.tolist() for at in other.examples.values()]


@pytest.mark.parametrize("name", ["iid", "dirichlet", "quality-groups"])
def test_a_size_per_client_leaves_the_rest_out(name):
    result = partition(dataset([50, 50]), name, 5, seed=0, options={"size": 3})
    assert [len(at) for at in result.examples.values()] == [3] * 5
    with pytest.raises(DataError, match=r"5 clients with 21 examples each need 105 training examples, found 100"):
        partition(dataset([50, 50]), name, 5, seed=0, options={"size": 21})


def test_names_are_padded_to_sort():
    data = dataset([60, 60])
    assert list(partition(data, "iid", 3, seed=0).examples) == ["client-00", "client-01", "client-02"]
    assert list(partition(data, "iid", 100, seed=0).examples)[-1] == "client-99"
    assert next(iter(partition(data, "iid", 101, seed=0).examples)) == "client-000"


def test_label_counts():
    """Four examples of labels 0 1 1 2 held by one client: counts 1, 2, 1."""
    data = TextDataset(tuple("wxyz"), np.array([0, 1, 1, 2]), ("a", "b", "c"))
    counts = partition(data, "iid", 1, seed=0).label_counts(data.labels, 3)
    assert {client: count.tolist() for client, count in counts.items()} == {"client-00": [1, 2, 1]}


@pytest.mark.parametrize("alpha", [0.1, 1.0, 100.0])
def test_dirichlet_variance_follows_alpha(alpha):
    """Four balanced labels: p ~ Dir(alpha x 4) has E[sum p^2] = (alpha + 1) / (4 alpha + 1), the chance that two
    examples of one client have the same label (beta moments: E[p_i^2] = alpha (alpha + 1) / (4 alpha (4 alpha + 1))).
    With 300 clients of 40 out of 40000 examples no label runs out. sum p^2 lies in [1/4, 1], so its standard error is
    at most .75 / 2 / sqrt(300) = .022; 3 of them are allowed, and the rounding to 40 examples is within .01.
    """
    data = dataset([10_000] * 4)
    result = partition(data, "dirichlet", 300, seed=3, options={"alpha": alpha, "size": 40})
    counts = np.array(list(result.label_counts(data.labels, 4).values()))
    assert np.mean(np.sum((counts / 40) ** 2, axis=1)) == pytest.approx((alpha + 1) / (4 * alpha + 1), abs=0.075)


def test_dirichlet_keeps_the_prior_of_unbalanced_labels():
    """E[p] = (.8, .2) whatever alpha is. var(p) = .8 * .2 / (1 * 2 + 1) = .053, so over 400 clients the standard error
    of the mean is .0115; 4 of them are allowed.
    """
    data = dataset([16_000, 4_000])
    result = partition(data, "dirichlet", 400, seed=0, options={"alpha": 1.0, "size": 10})
    counts = np.array(list(result.label_counts(data.labels, 2).values()))
    assert counts.mean(axis=0)[0] / 10 == pytest.approx(0.8, abs=0.046)


def test_skewness_falls_with_alpha_even_when_everything_is_handed_out():
    data = dataset([500] * 4)
    shares = [
        largest_share(partition(data, "dirichlet", 20, seed=0, options={"alpha": a}), data) for a in (0.05, 1, 50)
    ]
    iid = largest_share(partition(data, "iid", 20, seed=0), data)
    assert shares[0] > 0.7
    assert 0.65 > shares[1] > 0.4 > shares[2]
    assert shares[2] == pytest.approx(iid, abs=0.05)


def test_by_label_gives_every_client_its_number_of_labels():
    """10 clients with 2 of 5 labels are 20 holdings, so 4 for each label; 40 examples over 4 clients are 10 each."""
    data = dataset([40] * 5)
    result = partition(data, "by-label", 10, seed=0, options={"labels_per_client": 2})
    counts = np.array(list(result.label_counts(data.labels, 5).values()))
    assert (np.count_nonzero(counts, axis=1) == 2).all()
    assert (np.count_nonzero(counts, axis=0) == 4).all()
    assert set(counts.ravel().tolist()) == {0, 10}


def test_by_label_that_cannot_be():
    with pytest.raises(DataError, match=r"2 clients with 1 label\(s\) each cannot hold all 3 labels"):
        partition(dataset([5, 5, 5]), "by-label", 2, seed=0)
    with pytest.raises(ConfigError, match=r"labels_per_client is 4, but the training data have 3 labels"):
        partition(dataset([5, 5, 5]), "by-label", 2, seed=0, options={"labels_per_client": 4})
    with pytest.raises(DataError, match=r"'label 1' has 2 training examples, but 3 clients are to hold it"):
        partition(dataset([50, 2]), "by-label", 6, seed=0)


def test_by_column_names_clients_after_values():
    data = dataset([2, 2], {"user": ("zoe", "ann", "zoe", "ann")})
    for clients in (None, 2):
        result = partition(data, "by-column", clients, seed=0, options={"column": "user"})
        assert {client: at.tolist() for client, at in result.examples.items()} == {"ann": [1, 3], "zoe": [0, 2]}


def test_by_column_that_cannot_be():
    data = dataset([2, 2], {"user": ("zoe", "ann", "zoe", "bob")})
    with pytest.raises(
        ConfigError, match=r"federation.clients is 100, but the column 'user' has 3 different values; leave"
    ):
        partition(data, "by-column", 100, seed=0, options={"column": "user"})
    with pytest.raises(ConfigError, match=r"needs data.column"):
        partition(data, "by-column", None, seed=0)
    with pytest.raises(DataError, match=r"without the column 'users'; did you mean 'user'"):
        partition(data, "by-column", None, seed=0, options={"column": "users"})
    with pytest.raises(DataError, match=r"without the column 'user'; no extra column was loaded"):
        partition(dataset([2, 2]), "by-column", None, seed=0, options={"column": "user"})
    with pytest.raises(DataError, match=r"2 of 3 clients have fewer than 2 of the 4 .*least: ann with 1"):
        partition(data, "by-column", None, seed=0, options={"column": "user"}, min_examples=2)


def test_quality_groups_as_in_the_seed_paper():
    """100 clients, 10 % balanced, 4 labels, 8000 examples: 10 balanced clients, 80 examples each.

    Under Dir(100 x 4) a share has standard deviation sqrt(.25 * .75 / 401) = .0216: with 20 expected of 80 examples,
    all forty counts are within 4.6 deviations, 20 +- 8, and one for rounding. For skewed clients E[sum p^2] under
    Dir(.1 x 4) is (.1 + 1) / (.4 + 1) = .79, a lower bound of their largest share; .6 leaves room for the last ones,
    who get what remains, and a balanced client would be near .28.
    """
    data = dataset([2000] * 4)
    result = partition(data, "quality-groups", 100, seed=0)
    counts = result.label_counts(data.labels, 4)
    balanced = [client for client, group in result.groups.items() if group == BALANCED]
    skewed = [client for client, group in result.groups.items() if group == SKEWED]
    assert (len(balanced), len(skewed)) == (10, 90)
    assert {int(count.sum()) for count in counts.values()} == {80}
    assert all(abs(int(n) - 20) <= 9 for client in balanced for n in counts[client])
    assert np.mean([counts[client].max() / 80 for client in skewed]) > 0.6


def test_which_clients_are_balanced_is_drawn():
    """Over 40 seeds each of 10 positions is the balanced one 4 times on average; always the same would be a defect."""
    data = dataset([20, 20])
    places = []
    for seed in range(40):
        groups = partition(data, "quality-groups", 10, seed=seed).groups
        places += [client for client, group in groups.items() if group == BALANCED]
    assert len(places) == 40
    assert len(set(places)) >= 7


def test_balanced_clients_stay_balanced_when_the_data_are_not():
    """1900 + 100 examples, 20 clients of 100, 1 balanced (alpha 1e6): it holds 50 + 50 although the prior is .95."""
    data = dataset([1900, 100])
    result = partition(data, "quality-groups", 20, seed=0, options={"balanced_share": 0.05, "balanced_alpha": 1e6})
    (balanced,) = (client for client, group in result.groups.items() if group == BALANCED)
    assert result.label_counts(data.labels, 2)[balanced] == pytest.approx([50, 50], abs=1)


def test_a_label_that_the_balanced_clients_use_up_is_warned_of(caplog):
    """Ten balanced clients of 10 examples ask for 50 of label 1, which has 5; sizes hold all the same."""
    result = partition(dataset([195, 5]), "quality-groups", 20, seed=0, options={"balanced_share": 0.5})
    assert {len(at) for at in result.examples.values()} == {10}
    assert "used up the label(s) 'label 1'" in caplog.text


def test_balanced_share_at_its_ends():
    data = dataset([50, 50])
    shares = {
        share: partition(data, "quality-groups", 4, seed=0, options={"balanced_share": share}) for share in (0, 0.01, 1)
    }
    counts = {share: list(result.groups.values()).count(BALANCED) for share, result in shares.items()}
    assert counts == {0: 0, 0.01: 1, 1: 4}


def test_the_number_of_balanced_clients_is_rounded_half_up():
    """A tenth of 25 is 2.5, so 3."""
    groups = partition(dataset([50, 50]), "quality-groups", 25, seed=0, options={"balanced_share": 0.1}).groups
    assert list(groups.values()).count(BALANCED) == 3


def test_more_clients_than_examples():
    for name in DRAWN:
        with pytest.raises(DataError, match=r"11 clients, but only 10 training examples"):
            partition(dataset([5, 5]), name, 11, seed=0)


def test_fewer_examples_than_asked_for():
    with pytest.raises(DataError, match=r"5 of 5 clients have fewer than 3 of the 10 training examples"):
        partition(dataset([5, 5]), "iid", 5, seed=0, min_examples=3)
    with pytest.raises(DataError, match=r"no examples"):
        partition(dataset([0, 0]), "iid", 5, seed=0)


@pytest.mark.parametrize(
    ("name", "clients", "options", "message"),
    [
        ("dirichelt", 2, {}, "there is no partition 'dirichelt': did you mean 'dirichlet'"),
        ("dirichlet", 2, {"alfa": 1}, "partition dirichlet has no option 'alfa': did you mean 'alpha'"),
        ("dirichlet", 2, {"alpha": 0}, "option alpha is 0.0; expected a number above 0"),
        ("dirichlet", 2, {"alpha": "big"}, "partition dirichlet, option alpha: found 'big'"),
        ("dirichlet", 2, {"alpha": float("nan")}, "option alpha is nan"),
        ("iid", 2, {"size": 1.5}, "option size: found 1.5; Input should be a valid integer"),
        ("by-label", 2, {"labels_per_client": True}, "option labels_per_client: found True; expected int"),
        ("quality-groups", 2, {"balanced_share": 1.1}, "balanced_share is 1.1; expected a share from 0 to 1"),
        ("iid", None, {}, "federation.clients is None; this partition needs"),
        ("iid", 0, {}, "federation.clients is 0"),
    ],
)
def test_options_that_cannot_be(name, clients, options, message):
    with pytest.raises(ConfigError, match=message):
        partition(dataset([5, 5]), name, clients, seed=0, options=options)


def test_min_examples_below_one():
    with pytest.raises(ConfigError, match=r"min_examples is 0"):
        partition(dataset([5, 5]), "iid", 2, seed=0, min_examples=0)


@pytest.mark.parametrize("name", PARTITIONS)
def test_without_labels(name):
    """Those over labels say so in one line; the others make what they make of any texts."""
    data = TextDataset(tuple("abcdef"), None, (), {"user": tuple("ababab")})
    options = {"column": "user"} if name == "by-column" else {}
    if name in {"iid", "by-column"}:
        found = partition(data, name, 2, seed=0, options=options)
        assert sorted(np.concatenate(list(found.examples.values()))) == list(range(6))
        return
    with pytest.raises(DataError, match=f"the partition {name} needs a label for every text, and the data is read"):
        partition(data, name, 2, seed=0, options=options)


def test_large_clients_hold_as_many_times_as_much():
    data = dataset([400, 400, 400])
    result = partition(data, "size-groups", 20, seed=0, options={"large_share": 0.1, "times": 5, "size": 30})
    sizes = {client: len(at) for client, at in result.examples.items()}
    assert sorted(sizes.values()) == [30] * 18 + [150] * 2
    assert {client for client, size in sizes.items() if size == 150} == {
        client for client, group in result.groups.items() if group == LARGE
    }


def test_amount_alone_tells_the_groups_apart():
    """The labels of large and small clients are skewed alike."""
    data = dataset([4000] * 4)
    shares: dict[str, list[float]] = {LARGE: [], SMALL: []}
    for seed in range(4):
        result = partition(data, "size-groups", 40, seed=seed, options={"large_share": 0.5, "times": 4, "size": 40})
        for client, counts in result.label_counts(data.labels, 4).items():
            shares[result.groups[client]].append(counts.max() / counts.sum())
    assert abs(np.mean(shares[LARGE]) - np.mean(shares[SMALL])) < 0.1
    assert np.mean(shares[SMALL]) > 0.6


def test_more_than_there_is_cannot_be_held():
    with pytest.raises(DataError, match="2 of them with 5 times as many, need 840 training examples, found 800"):
        partition(dataset([400, 400]), "size-groups", 20, seed=0, options={"times": 5, "size": 30})
