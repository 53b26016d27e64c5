"""Secrets of whoever runs PolyRank stay with him: none reaches a terminal, a log, a run folder, an app or a page."""

from __future__ import annotations

import base64
import logging
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from polyrank.site.certificates import make
from tests.cli.conftest import Polyrank, Result

SECRETS = {
    "HF_TOKEN": "hf_plantedTokenOfTheHub0123456789abcd",
    "HUGGING_FACE_HUB_TOKEN": "hf_anotherPlantedTokenOfTheHub012345",
    "WANDB_API_KEY": "planted0wandb0key0123456789abcdef01234567",
    "MLFLOW_TRACKING_PASSWORD": "planted-mlflow-password-0123456789",
    "AWS_SECRET_ACCESS_KEY": "plantedAwsSecretAccessKey0123456789abcd",
    "HTTPS_PROXY": "http://user:planted-proxy-password@127.0.0.1:9",
}
PROXY = "planted-proxy-password"
IN_FILES = {
    "huggingface/token": "hf_plantedTokenInAFile0123456789abcdefg",
    ".netrc": "machine api.wandb.ai login user password planted0netrc0password0123456789",
}


def planted() -> list[bytes]:
    """All of them, as they are and as base64 has them."""
    plain = [*SECRETS.values(), PROXY, *(text.split()[-1] for text in IN_FILES.values())]
    return [form for text in plain for form in (text.encode(), base64.b64encode(text.encode()).rstrip(b"="))]


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A user's home with keys in it and in the environment; the folder of a federation's private keys."""
    home = tmp_path_factory.mktemp("home")
    for name, text in IN_FILES.items():
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text(text)
    for name, text in SECRETS.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HF_HOME", str(home / "huggingface"))
    make(home / "tls", nodes=1)
    before = logging.getLogger().level
    logging.getLogger().setLevel(logging.DEBUG)  # whatever any library would log
    yield home
    logging.getLogger().setLevel(before)


def leaks(secrets: Path, folder: Path, *results: Result, logged: str = "") -> list[str]:
    """Where a secret stands that was said or written."""
    forms = planted()
    forms += [(secrets / "tls" / name).read_bytes().split(b"\n")[1] for name in ("ca.key", "server.key", "node0")]
    texts = {"terminal": "".join(one.out + one.err for one in results).encode(), "log": logged.encode()}
    texts |= {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return [where for where, text in texts.items() for form in forms if form in text]


def test_none_is_said_or_written(
    polyrank: Polyrank, own_things: Path, secrets: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """By commands that succeed, that fail, and that show tracebacks, with a tracker, an app for Flower and a page."""
    study = own_things / "study.toml"
    done = [
        polyrank("run", study, "--out", "study", "--set", 'output.trackers=["tensorboard"]', "--profile"),
        polyrank("report", "study", "--out", "page.html"),
        polyrank("inspect", "study", "--json"),
        polyrank("export", "study", "--out", "exported"),
        polyrank("flower", "init", "app", study),
        polyrank("doctor"),
    ]
    assert [one.code for one in done] == [0] * 6, done
    failed = [
        polyrank("run", study, "--out", "study"),
        polyrank("run", study, "--out", "other", "--set", "model.name=nobody/has-this-model"),
        polyrank("data", study, "--set", "data.train=nobody/has-this-data"),
    ]
    assert {one.code for one in failed} <= {1, 2}
    assert (tmp_path / "study" / "events").is_dir()
    assert leaks(secrets, tmp_path, *done, *failed, logged=caplog.text) == []


def test_a_secret_that_was_written_would_be_found(secrets: Path, tmp_path: Path):
    (tmp_path / "a").mkdir()
    for name, text in {"plain": SECRETS["HF_TOKEN"], "netrc": IN_FILES[".netrc"]}.items():
        (tmp_path / "a" / name).write_text(f"x{text}y")
    (tmp_path / "a" / "basic").write_bytes(base64.b64encode(SECRETS["WANDB_API_KEY"].encode()))
    (tmp_path / "a" / "key").write_bytes((secrets / "tls" / "node0").read_bytes())
    assert len(leaks(secrets, tmp_path)) == 4
    assert leaks(secrets, tmp_path / "a" / "b", logged=SECRETS["HTTPS_PROXY"]) == ["log", "log"]


def test_what_is_private_has_the_mode_of_what_is_private(secrets: Path):
    for name in ("ca.key", "server.key", "node0"):
        assert stat.S_IMODE((secrets / "tls" / name).stat().st_mode) == 0o600
