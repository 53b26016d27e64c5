from __future__ import annotations

import threading

import huggingface_hub
import pytest

from polyrank.core import hub


def test_no_answer_within_the_time_is_unreachable(monkeypatch: pytest.MonkeyPatch):
    """Port 9 of this machine refuses or ignores; the answer is False either way, and no exception."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert hub.reachable() is False


def test_a_session_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch):
    """The session waits for an event that is set only after `reachable` has answered."""
    answered = threading.Event()

    class Hanging:
        def head(self, *_: object, **__: object) -> str:
            answered.wait(timeout=60)
            return "too late"

    monkeypatch.setattr(hub, "PROBE_SECONDS", 0.05)
    monkeypatch.setattr(huggingface_hub, "get_session", Hanging)
    assert hub.reachable() is False
    answered.set()


def test_any_answer_will_do(monkeypatch: pytest.MonkeyPatch):
    class Refusing:
        def head(self, *_: object, **__: object) -> str:
            return "503"

    monkeypatch.setattr(huggingface_hub, "get_session", Refusing)
    assert hub.reachable() is True
