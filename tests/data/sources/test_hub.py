import importlib
import os
import subprocess
import sys

import datasets
import huggingface_hub
import huggingface_hub.errors
import pytest

from polyrank.core.errors import DataError
from polyrank.data import load
from polyrank.data.sources import hub
from polyrank.data.sources.hub import HubName

# httpx or httpx2, by version of huggingface_hub
http = importlib.import_module(type(huggingface_hub.get_session()).__module__.split(".")[0])


@pytest.fixture
def splits(monkeypatch):
    """A Hub with one data set, whose test split has hidden labels; records what was asked for."""
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})

    def make(labels):
        texts = [f"text {i}" for i in range(len(labels))]
        return datasets.Dataset.from_dict({"text": texts, "label": labels}, features=features)

    hosted = datasets.DatasetDict(train=make([1, 1, 0, 0]), validation=make([1, 0]), test=make([-1, -1]))
    asked = []

    def load_dataset(name, config=None):
        asked.append((name, config))
        return hosted

    monkeypatch.setattr(hub, "reachable", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    hosted.asked = asked
    return hosted


def test_split_of_the_same_data_set(splits):
    split = load("glue:sst2", "#validation")
    assert splits.asked == [("glue", "sst2")]
    assert split.train.label_names == ("neg", "pos")
    assert split.train.labels.tolist() == [1, 1, 0, 0]
    assert split.test.texts == ("text 0", "text 1")


def test_splits_named_in_full(splits):
    split = load("glue#validation", "other/set#train")
    assert splits.asked == [("glue", None), ("other/set", None)]
    assert (len(split.train), len(split.test)) == (2, 4)


def test_the_default_test_split_is_test_then_validation_then_a_share_of_train(splits):
    with pytest.raises(DataError, match=r"glue#test: 2 row.s. with no label .*data.test=#validation"):
        load("glue")
    del splits["test"]
    assert len(load("glue").test) == 2
    del splits["validation"]
    split = load("glue", test_share=0.5)
    assert (split.train.label_counts().tolist(), split.test.label_counts().tolist()) == ([1, 1], [1, 1])


@pytest.mark.usefixtures("splits")
def test_a_split_that_is_not_there_and_one_used_twice():
    with pytest.raises(DataError, match=r"no split dev; splits found: train, validation, test: .* glue#train"):
        load("glue", "#dev")
    with pytest.raises(DataError, match=r"training and test data are both glue#train"):
        load("glue", "#train")


UNREACHABLE = [
    ConnectionError("Couldn't reach 'ag_news' on the Hub (LocalEntryNotFoundError)"),
    huggingface_hub.errors.OfflineModeIsEnabled("offline"),
    huggingface_hub.errors.LocalEntryNotFoundError("no entry"),
    http.ConnectError("[Errno -2] Name or service not known"),
    http.ReadTimeout("slow"),
    TimeoutError("slow"),
]


@pytest.mark.parametrize("error", UNREACHABLE, ids=lambda error: type(error).__name__)
def test_a_hub_that_cannot_be_reached(monkeypatch, error):
    failing(monkeypatch, error)
    with pytest.raises(
        DataError, match=r"could not be reached for the data set 'ag_news'.*columns body and topic"
    ) as seen:
        load("ag_news", text="body", label="topic")
    assert "--set data.train=PATH" in str(seen.value)


def test_a_lost_connection_inside_another_error(monkeypatch):
    error = datasets.exceptions.DatasetGenerationError("An error occurred while generating the dataset")
    error.__cause__ = http.ConnectError("connection reset")
    failing(monkeypatch, error)
    with pytest.raises(DataError, match="could not be reached"):
        load("ag_news")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (datasets.exceptions.DatasetNotFoundError("Dataset 'ag_nws' doesn't exist"), "no data set 'ag_nws' on the"),
        (
            ValueError("Config name is missing.\nPick one of: ['cola']"),
            "could not be loaded: ValueError: Config .*cola",
        ),
        (RuntimeError("Dataset scripts are no longer supported"), "could not be loaded: RuntimeError: .*scripts"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_data_set_that_cannot_be_loaded(monkeypatch, error, message):
    failing(monkeypatch, error)
    with pytest.raises(DataError, match=message):
        load("ag_nws")


def test_a_misspelt_embedded_name(monkeypatch):
    failing(monkeypatch, ConnectionError())
    with pytest.raises(DataError, match=r"did you mean 'stdlib-docs'"):
        load("stdlib_docs")


def failing(monkeypatch, error):
    def load_dataset(*_):
        raise error

    monkeypatch.setattr(hub, "reachable", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


def test_without_an_answer_only_the_cache_is_asked_and_the_setting_put_back(monkeypatch, splits):
    seen = []
    inner = datasets.load_dataset
    monkeypatch.setattr(hub, "reachable", lambda: False)
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *args: seen.append(datasets.config.HF_HUB_OFFLINE) or inner(*args)
    )
    before = datasets.config.HF_HUB_OFFLINE
    load("glue", "#validation")
    assert seen == [True]
    assert before == datasets.config.HF_HUB_OFFLINE
    assert splits.asked == [("glue", None)]


def test_really_offline(tmp_path):
    code = "from polyrank.data import load\nload('fancyzhx/ag_news')"
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "DataError: the Hugging Face Hub could not be reached for the data set 'fancyzhx/ag_news'" in done.stderr


@pytest.mark.parametrize("name", ["a/b/c", "", "no spaces", "x:", "#train"])
def test_what_is_no_name_on_the_hub(name):
    with pytest.raises(DataError, match=r"is no data source; expected stdlib-docs, a file"):
        HubName.parse(name)
