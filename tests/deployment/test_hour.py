"""The page docs/hour.md, block by block, on loopback: a federation of two sites with files of their own."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from benchmarks.deployment import QUIET, Processes, free_port, wait, wait_for_port

from tests import models

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "hour.md"
STAYS, PROXY, ENDED = "keeps running", "as the proxy", "when it has ended"


class Block(NamedTuple):
    """Where it is typed, and what."""

    title: str
    text: str


def blocks(language: str) -> list[Block]:
    found = re.findall(rf'```{language} title="([^"]*)"\n(.*?)```', PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [Block(*block) for block in found]


def data(folder: Path) -> None:
    """Texts of the toy task for the server and for two sites, none of which has another's."""
    toy = models.toy(360)
    rows = [[text, toy.label_names[label]] for text, label in zip(toy.texts, toy.labels, strict=True)]
    for at, name in enumerate(("server", "north", "south")):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["text", "label"], *rows[at::3]])


def adapted(text: str, places: Mapping[str, str]) -> str:
    """A block with this machine's ports and names in the place of the page's, all of which it must know."""
    for theirs, ours in places.items():
        text = text.replace(theirs, ours)
    return text


def test_every_process_of_the_page_is_one_of_the_deployment_guide():
    """Both pages name the same commands with the same options, but for paths, names and what a site is."""
    guide = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8").split()
    for block in blocks("bash"):
        if block.title.startswith("on the server, keeps"):
            assert [word for word in block.text.split() if word not in guide] == [], block.text


def test_no_block_of_the_page_is_left_out():
    """But the installation, which is a text."""
    text = PAGE.read_text(encoding="utf-8")
    assert text.count("```") == 2 * (len(blocks("bash")) + len(blocks("toml")) + 1)


@pytest.mark.slow
@pytest.mark.long
def test_the_page_works_as_it_is_written(tmp_path: Path):
    (study,) = blocks("toml")
    (tmp_path / "study.toml").write_text(study.text, encoding="utf-8")
    data(tmp_path)
    shutil.copy(ROOT / "examples" / "deployment" / "nginx.conf", tmp_path)
    link, public = free_port(), free_port()
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if nginx is None and os.environ.get("CI"):
        pytest.fail("CI has no nginx: .ci/run installs Debian's nginx-light")
    outside = f"127.0.0.1:{public if nginx else link}"
    places = {
        **{"127.0.0.1:18443": f"127.0.0.1:{link}", "--port 18443": f"--port {link}"},
        **{"fl.example.org:8443": outside, "19200": str(free_port()), "19201": str(free_port())},
        "'daemon off;'": "'daemon off;" + (" user root;'" if os.geteuid() == 0 else "'"),
        "nginx -p": f"{nginx} -p",
    }
    settings = (tmp_path / "nginx.conf").read_text(encoding="utf-8")
    settings = settings.replace("18443", str(link)).replace("listen 8443", f"listen 127.0.0.1:{public}")
    (tmp_path / "nginx.conf").write_text(settings, encoding="utf-8")
    environment = {**QUIET, "HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}  # FLWR_HOME is the page's matter
    results = tmp_path / "app" / "runs" / "flower"
    with Processes(tmp_path / "logs") as processes:
        for block in blocks("bash"):
            if PROXY in block.title and nginx is None:
                continue
            text = adapted(block.text, places)
            if STAYS in block.title:
                started = processes.start(
                    "bash", "-c", f"cd {tmp_path} && exec {text.lstrip()}", environment=environment
                )
                if "superlink --host" in text:
                    wait_for_port(link, started)
                continue
            if "supernode list" in text:  # the page's reader looks; a machine asks until both are there
                wait(lambda: online(tmp_path, environment) == 2, 180, "two nodes were not online")
            if ENDED in block.title:
                try:
                    wait((results / "summary.json").is_file, 420, "the run did not end")
                except TimeoutError as error:
                    pytest.fail(f"{error}\n{processes.output()}")
            typed(text, tmp_path, environment)
    summary = json.loads((results / "summary.json").read_text(encoding="utf-8"))
    clients = json.loads((results / "clients.json").read_text(encoding="utf-8"))["clients"]
    assert (summary["rounds"], summary["dropped"]) == (2, 0)
    assert {name: client["rank"] for name, client in clients.items()} == {"north": 20, "south": 5}
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))["r"] == 20
    assert (results / "report.html").is_file()


def online(folder: Path, environment: Mapping[str, str]) -> int:
    time.sleep(2)
    nodes = json.loads(typed("flwr supernode list tls --format json", folder, environment))["nodes"]
    return sum(node["status"] == "online" for node in nodes)


def typed(text: str, folder: Path, environment: Mapping[str, str]) -> str:
    """In a shell that ends at the first error."""
    done = subprocess.run(
        ["bash", "-ec", text],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{text}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout
