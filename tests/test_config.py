from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyrank.config import Config, dump, load, override, parse
from polyrank.core.errors import ConfigError


def error(*overrides: str) -> str:
    with pytest.raises(ConfigError) as found:
        load(overrides=overrides)
    message = str(found.value)
    assert "\n" not in message
    return message


def test_without_anything_it_is_the_quickstart():
    assert load() == Config()
    assert (load().model.name, load().data.train) == ("quickstart", "stdlib-docs")


def test_a_file_is_read_and_overridden(tmp_path: Path):
    path = tmp_path / "c.toml"
    path.write_text('[training]\nlr = 0.5\nepochs = 3\n[ranks]\npolicy = "random"\n', encoding="utf-8")
    config = load(path, ["training.lr=1e-3", "federation.clients = 7"])
    assert (config.training.lr, config.training.epochs) == (1e-3, 3)
    assert (config.ranks.policy, config.federation.clients) == ("random", 7)


@pytest.mark.parametrize("mark", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_as_windows_editors_save_it(tmp_path: Path, mark: str):
    path = tmp_path / "c.toml"
    path.write_bytes('[data]\r\ntrain = "Bücher.csv"\r\n'.encode(mark))
    assert load(path).data.train == "Bücher.csv"


@pytest.mark.parametrize("content", [b"\xff\xfea", b"a = \xe9", b"a = " + b"9" * 5000, b"a = " + b"[" * 100_000])
def test_a_file_that_is_no_toml(tmp_path: Path, content: bytes):
    path = tmp_path / "c.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"c.toml is not valid TOML"):
        load(path)


@pytest.mark.parametrize(
    ("text", "section", "key", "value"),
    [
        ("training.lr=1e-3", "training", "lr", 0.001),
        (" training . lr = 1e-3 ", "training", "lr", 0.001),
        ("model.name=roberta-base", "model", "name", "roberta-base"),
        ("model.name='a b'", "model", "name", "a b"),
        ("data.train=./a=b.csv", "data", "train", "./a=b.csv"),
        ("data.text=[\"title\", 'body']", "data", "text", ["title", "body"]),
        ("aggregation.options={donor = 'owners'}", "aggregation", "options", {"donor": "owners"}),
        ("aggregation.options.donor=owners", "aggregation", "options", {"donor": "owners"}),
        ("model.config.num_hidden_layers=3", "model", "config", {"num_hidden_layers": 3}),
        ("evaluation.diagnostics=false", "evaluation", "diagnostics", False),
        ("ranks.levels=[2, 4]", "ranks", "levels", [2, 4]),
    ],
)
def test_overrides_are_toml_or_bare_words(text: str, section: str, key: str, value: object):
    assert getattr(getattr(load(overrides=[text]), section), key) == value
    assert override(Config(), [text]) == load(overrides=[text])


def test_later_overrides_win():
    assert load(overrides=["training.lr=1", "training.lr=2"]).training.lr == 2


def test_a_configuration_that_was_overridden_is_as_it_was():
    config = load(overrides=["aggregation.options={donor = 'owners'}"])
    override(config, ["aggregation.options.donor=highest", "training.lr=1"])
    assert config == load(overrides=["aggregation.options={donor = 'owners'}"])


@pytest.mark.parametrize("text", ["lr=1", "training.lr", "=1", "training.=1", ".lr=1", ""])
def test_what_is_no_override_is_said(text: str):
    assert error(text) == f"--set {text}: expected section.key=value, for example training.lr=1e-3"


def test_a_value_is_no_section():
    assert error("training.lr=1", "training.lr.x=1") == "--set training.lr.x=1: lr is a value, not a section"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainin.lr=1", "configuration: trainin is not known: did you mean 'training'?"),
        ("training.learning_rat=1", "configuration: training.learning_rat is not known: known: accumulate, attention"),
        ("training.epoch=1", "configuration: training.epoch is not known: did you mean 'epochs'?"),
        ("federation.participaton=1", "federation.participaton is not known: did you mean 'participation'?"),
        ("training.lr=0", "configuration: training.lr: found 0; input should be greater than 0"),
        ("training.lr=fast", "training.lr: found 'fast'; input should be a valid number"),
        ("training.lr=inf", "training.lr: found inf; input should be a finite number"),
        ("ranks.alpha=nan", "ranks.alpha: found nan; input should be a finite number"),
        ("training.momentum=1", "training.momentum: found 1; input should be less than 1"),
        ("training.epochs=0", "training.epochs: found 0; input should be greater than or equal to 1"),
        ("training.epochs=1.5", "training.epochs: found 1.5; input should be a valid integer"),
        ("federation.participation=0", "federation.participation: found 0; input should be greater than 0"),
        (
            "federation.participation=1.1",
            "participation: found 1.1; input should be less than or equal to 1",
        ),
        ("federation.clients=0", "federation.clients: found 0; input should be greater than or equal to 1"),
        ("federation.head=none", "federation.head: found 'none'; input should be 'mean' or 'local'"),
        ("aggregation.weights=size", "aggregation.weights: found 'size'; input should be 'examples' or 'uniform'"),
        ("training.engine=both", "training.engine: found 'both'; input should be 'auto', 'sequential' or 'batched'"),
        ("training.workers=0", "training.workers: found 0; input should be greater than or equal to 1"),
        ("training.clients_per_pass=two", "training.clients_per_pass: found 'two'; input should be a valid integer"),
        (
            "training.precision=fp16",
            "precision: found 'fp16'; input should be 'auto', 'float32' or 'bfloat16'",
        ),
        ("data.test_share=1", "data.test_share: found 1; input should be less than 1"),
        ("model.targets=3", "configuration: model.targets: found 3; input should be a valid string"),
        ("data.text=[1]", "configuration: data.text: found [1]; input should be a valid string"),
        ('output.trackers=["tensorbord"]', "output.trackers.0: found 'tensorbord'; input should be 'tensorboard', "),
        ("ranks.by_name={a = 'x'}", "ranks.by_name.a: found 'x'; input should be a valid integer"),
        ("training.accumulate=0", "training.accumulate: found 0; input should be greater than or equal to 1"),
        (
            "training.accumulate=17",
            "training.accumulate: found 17 parts of a step of 16 examples (batch_size); expected at most 16",
        ),
        ("ranks.levels=[]", "ranks.levels: found []; list should have at least 1 item"),
        ("ranks.levels=[0, 5]", "ranks.levels: found [0, 5]; expected ranks of 1 or more"),
        ("ranks.levels=[5, 2]", "ranks.levels: found [5, 2]; expected different ranks in ascending order"),
        ("ranks.levels=[5, 5]", "ranks.levels: found [5, 5]; expected different ranks in ascending order"),
        ("ranks.shares=[1]", "ranks.shares: found 1 values for 2 levels; expected one each"),
        ("ranks.shares=[0.5, 0.4]", "ranks.shares: found [0.5, 0.4] with the sum 0.9; expected the sum 1"),
        ("ranks.shares=[1.5, -0.5]", "ranks.shares: found [1.5, -0.5]; expected no negative value"),
        ("ranks.shares=[nan, 1]", "ranks.shares.0: found nan; input should be a finite number"),
        ("ranks.counts=[5]", "ranks.counts: found 1 values for 2 levels; expected one each"),
        ("ranks.counts=[-1, 5]", "ranks.counts: found [-1, 5]; expected no negative value"),
        ("ranks.prune_keep=0", "ranks.prune_keep: found 0; input should be greater than 0"),
        ("ranks.prune_keep=1", "ranks.prune_keep: found 1; input should be less than 1"),
        ("ranks.prune_weight=-0.1", "ranks.prune_weight: found -0.1; input should be greater than or equal to 0"),
        ("ranks={policy = 'fixed', by_name = {a = 0}}", "by_name: client a has rank 0; expected 1 or more"),
        ("ranks={shares = [0.5, 0.5], counts = [1, 1]}", "shares and counts are both given; expected one of them"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_it(text: str, message: str):
    if text.startswith("ranks={"):
        with pytest.raises(ConfigError) as found:
            parse(tomllib.loads(text), "configuration")
        assert message in str(found.value)
    else:
        assert message in error(text)


def test_a_section_must_be_a_table():
    with pytest.raises(ConfigError, match=r"c\.toml: training: found 3; expected a table, \[training\]"):
        parse({"training": 3}, "c.toml")


def test_an_error_names_the_file(tmp_path: Path):
    path = tmp_path / "c.toml"
    path.write_text("[training]\nlr = -1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"c\.toml: training\.lr: found -1"):
        load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[training\nlr = 1", r"c\.toml is not valid TOML: "),
        (b"[training]\nlr = 1\nlr = 2", r"c\.toml is not valid TOML: "),
        (b"\xff\xfe", r"c\.toml is not valid TOML: "),
    ],
)
def test_a_file_that_is_no_toml_is_one_line(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "c.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as found:
        load(path)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            rb'data.train = "C:\Users\ann\x.csv"',
            r"c\.toml is not valid TOML: .*; in double quotes a backslash begins an escape",
        ),
        (rb'data.train = "C:\temp\new.csv"', r"c\.toml: data\.train: found 'C:\\temp\\new\.csv'; no name has such"),
        (b'model.name = "a\\nb"', r"model\.name.*put a path between single quotes"),
    ],
)
def test_a_windows_path_in_double_quotes_is_said(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "c.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load(path)


def test_a_table_in_the_place_of_a_configuration_is_said(tmp_path: Path):
    path = tmp_path / "tickets.csv"
    path.write_text("text,label\nno light,a\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"it looks like data: polyrank init --data .*tickets\.csv writes"):
        load(path)


def test_a_file_that_is_not_there_or_a_folder_is_one_line(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"no such configuration file: .*absent\.toml; expected a TOML file"):
        load(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="is a folder; expected a TOML file"):
        load(tmp_path)


def test_a_tracker_that_is_named_twice_counts_once():
    assert load(overrides=['output.trackers=["wandb", "mlflow", "wandb"]']).output.trackers == ["wandb", "mlflow"]


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Config().training.lr = 1.0  # type: ignore[misc]  # what is tested


def test_defaults_are_not_shared():
    one, other = Config.model_validate({"model": {}}), Config.model_validate({"model": {}})
    one.model.config["x"] = 1
    assert other.model.config == {}


_places = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
"""Without control characters, which no path has."""
_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_numbers = st.floats(1e-12, 1e12)
_values: st.SearchStrategy[Any] = st.recursive(
    st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False, allow_infinity=False) | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "model": st.fixed_dictionaries(
                {},
                optional={
                    "name": _places,
                    "revision": _texts,
                    "targets": _texts | st.lists(_texts, max_size=3),
                    "config": st.dictionaries(_texts, _values, max_size=3),
                },
            ),
            "data": st.fixed_dictionaries(
                {}, optional={"train": _places, "test": _places, "text": st.lists(_texts), "size": st.integers(1)}
            ),
            "ranks": st.fixed_dictionaries(
                {"policy": st.just("fixed")},
                optional={"by_name": st.dictionaries(_texts, st.integers(1, 99), max_size=3), "alpha": _numbers},
            ),
            "aggregation": st.fixed_dictionaries({}, optional={"options": st.dictionaries(_texts, _values)}),
            "training": st.fixed_dictionaries({}, optional={"lr": _numbers, "clip": _numbers}),
            "federation": st.fixed_dictionaries({}, optional={"seed": st.integers(-(2**62), 2**62)}),
        },
    )
)
def test_what_is_written_is_read_back_as_it_was(values: dict[str, Any]):
    config = parse(values, "drawn")
    assert parse(tomllib.loads(dump(config)), "written") == config


def test_whatever_can_be_unset_is_unset_by_default():
    """TOML has no null, so a value that is None is left out, and reading it back must not give another default."""
    for section in Config.model_fields.values():
        for name, field in section.annotation.model_fields.items():
            assert type(None) not in get_args(field.annotation) or field.default is None, name
