from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from benchmarks.deployment import Processes, free_port, wait_for_port

from polyrank.site.certificates import make

CONFIGURATION = Path(__file__).parents[2] / "examples" / "deployment" / "nginx.conf"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


@dataclass(frozen=True)
class Site:
    """A folder as the guide has it, and the ports that its tests use.

    Args:
        folder: with tls/ and nginx.conf.
        public: where nginx listens.
        inner: where the SuperLink listens.
    """

    folder: Path
    public: int
    inner: int

    @property
    def tls(self) -> Path:
        return self.folder / "tls"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    if NGINX is None:
        if os.environ.get("CI"):
            pytest.fail("CI has no nginx: .ci/run installs Debian's nginx-light")
        pytest.skip("no nginx here; Debian's: apt-get install nginx-light")
    made = Site(tmp_path_factory.mktemp("federation"), free_port(), free_port())
    make(made.tls, nodes=2)
    text = CONFIGURATION.read_text(encoding="utf-8")
    for theirs, ours in (("listen 8443", f"listen 127.0.0.1:{made.public}"), ("18443", str(made.inner))):
        assert theirs in text
        text = text.replace(theirs, ours)
    (made.folder / "nginx.conf").write_text(text, encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Ended with the module."""
    with Processes(tmp_path_factory.mktemp("logs")) as made:
        yield made


@pytest.fixture(scope="module")
def nginx(site: Site, processes: Processes) -> Site:
    """The configuration of examples/, running."""
    assert NGINX is not None
    more = "daemon off;" + (" user root;" if os.geteuid() == 0 else "")  # the test's folder is its owner's alone
    process = processes.start(NGINX, "-p", site.folder, "-c", "nginx.conf", "-g", more)
    wait_for_port(site.public, process)
    return site
