"""The real process: `polyrank site` with the embedded model, and clients of it."""

from __future__ import annotations

import os
import random
import signal
import socket
import stat
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from polyrank import config as configuration
from polyrank.core.adapter import PARTS, Adapter, Factors, Part
from polyrank.core.errors import AdapterError, ConfigError, SiteError
from polyrank.federation.loading import participant
from polyrank.federation.site import Site
from polyrank.site.address import held
from polyrank.site.client import SiteClient
from polyrank.site.protocol import MAX_BODY
from polyrank.training.work import Outcome, Penalty, Work
from tests.site.conftest import QUICK, Daemon, StartDaemon

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Unix sockets")

LONG = "training.epochs=2000"
"""Minutes of training: a task that is still running whenever a test looks."""


@pytest.fixture(scope="module")
def local() -> Site:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    site = participant(configuration.load(None, QUICK))
    torch.set_num_threads(threads)
    return site


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for all tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("site")
    folder.chmod(0o700)
    daemon = Daemon(folder / "s.sock", folder / "log")
    daemon.wait_for("ready at")
    yield daemon
    daemon.stop()


def work_of(local: Site, *, rank: int = 2, base_change: bool = False) -> Work:
    """With everything in it that work can have."""
    adapter = local.resident.initial(rank, 2.0, 3)
    change = None
    if base_change:
        generator = torch.Generator().manual_seed(1)
        name, factors = next(iter(adapter.modules.items()))
        a, b = (torch.randn(t.shape, generator=generator) / 10 for t in (factors.a, factors.b))
        change = Adapter({name: Factors(a, b, 0.5)})
    trains: frozenset[Part] = frozenset({"b", "head"}) if base_change else PARTS
    seed, penalty = 2**63 + 11, Penalty(1, 0.1)
    return Work(first(local), 3, adapter, seed, change, trains, penalty, scored=base_change)


def first(local: Site) -> str:
    return min(local.examples)


def one_thread(local: Site, work: Work) -> Outcome:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return local.do(work)
    finally:
        torch.set_num_threads(threads)


def same(one: Outcome, other: Outcome) -> bool:
    """Whether the same was trained, to the bit."""
    assert one.trained is not None
    assert other.trained is not None
    pairs = zip(one.trained.items(), other.trained.items(), strict=True)
    return all(name == its and torch.equal(tensor, found) for (name, tensor), (its, found) in pairs)


@pytest.mark.parametrize("base_change", [False, True])
def test_an_outcome_is_that_of_the_site_in_process_bit_for_bit(running: Daemon, local: Site, base_change: bool):
    """What was trained, and the scores of what it was sent."""
    work = work_of(local, base_change=base_change)
    expected, found = one_thread(local, work), SiteClient(running.socket, timeout=60).do(work)
    assert same(found, expected)
    before = work.adapter.parts(work.trains)
    assert found.trained is not None
    assert found.trained.keys() == before.keys()
    assert not all(torch.equal(tensor, before[name]) for name, tensor in found.trained.items())
    assert (found.client, found.weight, found.metrics) == (expected.client, expected.weight, expected.metrics)
    assert found.scores == expected.scores
    assert bool(found.scores) == base_change
    assert found.seconds is not None


def test_facts_are_those_of_the_site_in_process(running: Daemon, local: Site):
    name = max(local.examples)
    assert SiteClient(running.socket, timeout=60).facts(name) == local.facts(name)


def test_only_its_owner_can_reach_the_socket(running: Daemon):
    found = running.socket.lstat()
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o600


@pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="the system does not say who is on the other side")
@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can try it as another user")
def test_another_user_is_refused_even_if_permissions_are_given_away(running: Daemon, monkeypatch: pytest.MonkeyPatch):
    folder, socket_ = running.socket.parent, running.socket
    monkeypatch.chdir(folder)
    folder.chmod(0o711)
    socket_.chmod(0o666)
    os.seteuid(65534)
    try:
        answer = raw(Path(socket_.name), b"")
        with pytest.raises(SiteError, match="belongs to user 0, this process to 65534"):
            SiteClient(socket_.name).facts("a")
    finally:
        os.seteuid(0)
        socket_.chmod(0o600)
        folder.chmod(0o700)
    assert b"refused user 65534" in answer
    assert "refused user 65534" in running.said


def test_a_wrong_shape_an_unknown_client_and_a_missing_tensor_are_errors_and_the_daemon_goes_on(
    running: Daemon, local: Site
):
    client = SiteClient(running.socket, timeout=60)
    work = work_of(local)
    name, factors = next(iter(work.adapter.modules.items()))
    rest = {n: f for n, f in work.adapter.modules.items() if n != name}
    narrow = Adapter({**rest, name: Factors(factors.a[:, 1:], factors.b)}, work.adapter.dense)
    for bad in (narrow, Adapter(rest, work.adapter.dense)):
        with pytest.raises(AdapterError, match=name.replace(".", r"\.")):
            client.do(Work(work.client, 1, bad, 0))
    with pytest.raises(ConfigError, match="there is no client 'nobody' here"):
        client.facts("nobody")
    assert same(client.do(work), one_thread(local, work))


def test_a_fault_in_a_task_is_an_error_reply_with_its_kind(running: Daemon, local: Site):
    """A negative seed is none that a generator takes: a fault that nobody foresaw."""
    work = work_of(local)
    client = SiteClient(running.socket, timeout=60)
    bad = Work(work.client, 1, work.adapter, seed=-1)
    with pytest.raises(SiteError, match=rf"failed at round 1, training {work.client}: \w+Error \(its log has"):
        client.do(bad)
    assert "Traceback" in running.said
    assert client.facts(work.client).examples > 0


def raw(path: Path, data: bytes, *, hang_up: bool = True) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(path))
        with suppress(BrokenPipeError):  # it may have said why, and hung up, before that
            connection.sendall(data)
        if hang_up:
            connection.shutdown(socket.SHUT_WR)
        found = b""
        with suppress(ConnectionResetError):  # what the daemon had not read when it hung up
            while piece := connection.recv(65536):
                found += piece
        return found


def frame(header: bytes, body: int = 0, magic: bytes = b"PRS2") -> bytes:
    return struct.pack(">4sIQ", magic, len(header), body) + header


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"GET / HTTP/1.1\r\nHost: site\r\n\r\n", "at the start of a message"),
        (random.Random(0).randbytes(4096), "at the start of a message"),
        (b"PRS2", "stopped after 4 of 16 bytes"),
        (frame(b"{}", body=2**62), f"a body of {2**62} bytes; expected at most {MAX_BODY}"),
        (struct.pack(">4sIQ", b"PRS2", 2**32 - 1, 0), "a header of 4294967295 bytes"),
        (frame(b"{}", body=MAX_BODY), f"stopped after 0 of {MAX_BODY} bytes"),
        (frame(b"[" * 100_000), "not JSON"),
        (frame(b"[1]"), "a list; expected an object"),
        (frame(b"{}", magic=b"PRS1"), "expected b'PRS2': the other side is of another version of PolyRank"),
        (frame(b'{"pickle": {}}'), "the request is pickle; expected one of facts?, work"),
        (frame(b'{"facts": {"examples": 1, "labels": []}}'), "the request facts cannot be read: it lacks"),
        (frame(b'{"facts?": {"client": 3}}'), "client: Input should be a valid string"),
        (frame(b'{"facts?": {"client": "a", "more": 1}}'), "it lacks nothing, and more in it is unknown"),
        (frame(b'{"facts?": {"client": "a"}, "work": {}}'), "the request is facts?, work; expected one of"),
    ],
)
def test_garbage_gets_an_error_reply_and_the_daemon_goes_on(running: Daemon, local: Site, data: bytes, answer: str):
    assert answer in raw(running.socket, data).decode(errors="replace").replace('\\"', '"')
    assert SiteClient(running.socket, timeout=60).facts(first(local)).examples > 0


def test_tensors_that_are_none_get_an_error_reply(running: Daemon):
    answer = raw(running.socket, frame(b'{"work": {}}', 3) + b"abc", hang_up=False)
    assert b"3 bytes that should be safetensors cannot be read" in answer


def test_a_huge_length_takes_no_memory(running: Daemon):
    """8 GiB announced and 4 MiB sent: the daemon holds some MiB more at most, while it waits for the rest."""
    import psutil

    process = psutil.Process(running.process.pid)
    before = process.memory_info().rss
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(running.socket))
        connection.sendall(frame(b"{}", body=MAX_BODY) + bytes(4 * 2**20))
        assert process.memory_info().rss - before < 64 * 2**20


def test_a_second_client_waits_for_its_turn(running: Daemon, local: Site):
    """Four at once: each gets its own update."""
    works = [work_of(local, rank=rank) for rank in (1, 2, 3, 4)]
    found: dict[int, Outcome] = {}

    def ask(work: Work) -> None:
        found[work.adapter.rank] = SiteClient(running.socket, timeout=60).do(work)

    threads = [threading.Thread(target=ask, args=[work]) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for work in works:
        assert same(found[work.adapter.rank], one_thread(local, work))


@pytest.mark.slow
def test_killed_in_mid_task_it_is_an_error_and_after_a_restart_the_same_client_goes_on(
    start_daemon: StartDaemon, local: Site
):
    daemon, work = start_daemon(LONG), work_of(local)
    client = SiteClient(daemon.socket, timeout=60)
    caught: list[BaseException] = []

    def ask() -> None:
        try:
            client.do(work)
        except SiteError as error:
            caught.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    daemon.wait_for("training " + work.client + ": begins")
    daemon.send(signal.SIGKILL)
    daemon.process.wait(timeout=10)  # until it is gone, its socket may still take calls
    asking.join(timeout=10)
    assert "ended at round 3, training" in str(caught[0])
    assert "start it again: polyrank site --socket" in str(caught[0])
    with pytest.raises(SiteError, match="its socket is all that is left; start it: polyrank site"):
        client.facts(work.client)
    start_daemon()  # over the socket that the dead one left
    assert same(client.do(work), one_thread(local, work))


def test_a_client_waits_for_a_daemon_that_is_still_loading(private: Path, local: Site):
    """As long as it has time: loading a large base takes minutes."""
    daemon = Daemon(private / "s", private / "log")
    try:
        while not held(daemon.socket):
            assert daemon.process.poll() is None, daemon.said
            time.sleep(0.01)
        assert "ready" not in daemon.said
        name = first(local)
        with pytest.raises(SiteError, match=r"did not reply within 0\.2 s.*is still loading"):
            SiteClient(daemon.socket, timeout=0.2).facts(name)
        assert SiteClient(daemon.socket, timeout=60).facts(name) == local.facts(name)
    finally:
        daemon.stop()


def test_a_stopped_daemon_is_an_error_within_the_timeout_and_goes_on_when_it_is_continued(running: Daemon, local: Site):
    """And what was asked of it meanwhile is passed over: that client has given up."""
    work, before = work_of(local), len(running.said)
    running.send(signal.SIGSTOP)
    try:
        start = time.monotonic()
        with pytest.raises(SiteError, match=r"did not reply within 1\.5 s at round 3"):
            SiteClient(running.socket, timeout=1.5).do(work)
        assert 1.4 < time.monotonic() - start < 5
    finally:
        running.send(signal.SIGCONT)
    assert SiteClient(running.socket, timeout=60).facts(work.client).examples == 30
    assert f"round 3, training {work.client}: passed over" in running.said[before:]
    assert f"training {work.client}: begins" not in running.said[before:]


def test_sigterm_ends_it_in_mid_task_with_a_reply_and_the_socket_is_gone(start_daemon: StartDaemon, local: Site):
    daemon, work = start_daemon(LONG), work_of(local)
    caught: list[BaseException] = []

    def ask() -> None:
        try:
            SiteClient(daemon.socket, timeout=60).do(work)
        except SiteError as error:
            caught.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    daemon.wait_for(": begins")
    daemon.send(signal.SIGTERM)
    assert daemon.process.wait(timeout=10) == 0
    asking.join(timeout=10)
    assert "was ended at round 3" in str(caught[0])
    assert not daemon.socket.exists()
    with pytest.raises(SiteError, match="there is no site's daemon at"):
        SiteClient(daemon.socket).facts(work.client)


def test_a_second_daemon_at_the_same_socket_is_refused(running: Daemon):
    second = Daemon(running.socket, running.socket.with_name("second.log"))
    assert second.process.wait(timeout=30) == 2
    assert "another daemon has" in second.said
    assert "end it first" in second.said
    assert running.socket.exists()
