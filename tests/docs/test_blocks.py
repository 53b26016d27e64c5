"""Every command and code block of README, CONTRIBUTING and docs/ runs in a test, or says why not."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from polyrank import cli, config
from polyrank.site.switches import SWITCHES
from tests.conformance import fixtures
from tests.docs.blocks import PAGES, ROOT, Block, blocks, commands

ALL = [block for page in PAGES for block in blocks(page)]
RUN: Mapping[str, tuple[str, ...]] = {
    "README.md": ("tests/end_to_end/test_readme_commands.py", "tests/end_to_end/test_readme.py"),
    "CONTRIBUTING.md": ("tests/test_docs.py",),
    "comparing.md": ("tests/end_to_end/test_docs_commands.py", "tests/end_to_end/test_readme.py"),
    "deployment.md": ("tests/deployment/test_guide.py",),
    "flower.md": ("tests/end_to_end/test_readme_commands.py", "tests/docs/test_blocks.py"),
    "generating.md": ("tests/end_to_end/test_docs_commands.py",),
    "hour.md": ("tests/deployment/test_hour.py",),
    "merging.md": ("tests/end_to_end/test_docs_commands.py",),
    "own-data.md": ("tests/end_to_end/test_docs_commands.py",),
    "planning.md": ("tests/end_to_end/test_docs_commands.py",),
    "run-folder.md": ("tests/end_to_end/test_docs_commands.py",),
    "scale.md": ("tests/docs/test_blocks.py",),
    "serving.md": ("tests/end_to_end/test_docs_commands.py",),
    "start.md": ("tests/end_to_end/test_docs_commands.py",),
    "writing.md": ("tests/end_to_end/test_docs_commands.py",),
}
"""Who runs the commands and the Python of a page that have no reason not to be run."""


def ids(block: Block) -> str:
    return f"{block.page.name}:{block.line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_what_is_not_run_says_why(page: Path):
    """A page with commands or Python that is run nowhere is no page of ours: name the test in `RUN`, or the reason."""
    run = [block for block in blocks(page) if block.kind in ("commands", "python") and not block.reason]
    assert bool(run) == (page.name in RUN), [ids(block) for block in run]
    for test in RUN.get(page.name, ()):
        text = (ROOT / test).read_text(encoding="utf-8")
        assert page.name in text or page.name == "flower.md", f"{test} does not name {page.name}"


@pytest.mark.parametrize("block", [block for block in ALL if block.kind == "toml" and not block.reason], ids=ids)
def test_every_configuration_is_valid(block: Block):
    assert config.parse(tomllib.loads(block.text), ids(block))


@pytest.mark.parametrize("block", [block for block in ALL if block.kind == "json"], ids=ids)
def test_every_json_is_json(block: Block):
    for line in block.text.splitlines():
        json.loads(line)


def parsed(arguments: list[str]) -> None:
    """As the command line reads them, without doing anything."""
    command: click.Command = typer.main.get_command(cli.app)
    name, context = "polyrank", None
    while isinstance(command, click.Group):
        context = command.make_context(name, arguments, parent=context)
        name, command, arguments = command.resolve_command(context, [*context._protected_args, *context.args])
    assert command is not None
    command.make_context(name, arguments, parent=context)


OURS = [
    pytest.param(part.strip(), id=f"{ids(block)} {part.strip()[:60]}")
    for block in ALL
    if block.kind == "commands"
    for line in commands(block.text)
    for part in line.split("&&")
    if part.strip().startswith("polyrank ")
]


@pytest.mark.parametrize("command", OURS)
def test_every_command_of_ours_is_one(command: str):
    """Of those that are not run, too: the command is there, and so are its options."""
    parsed(shlex.split(command)[1:])


def test_a_command_that_is_none_is_noticed():
    with pytest.raises(click.UsageError, match="No such option"):
        parsed(["merge", "a", "b", "-o", "c", "--wieghts", "1,2"])
    with pytest.raises(click.UsageError, match="No such command"):
        parsed(["marge", "a"])


def test_the_switches_of_flower_are_those_that_are_used():
    """Of the page docs/flower.md."""
    (block,) = [block for block in blocks(ROOT / "docs" / "flower.md") if block.text.startswith("export ")]
    said = dict(word.split("=", 1) for word in block.text.split() if "=" in word)
    assert said == SWITCHES


def python(page: str, at: int = 0) -> str:
    return [block.text for block in blocks(ROOT / "docs" / page) if block.kind == "python" and not block.reason][at]


def test_the_participant_in_flower_md_makes_an_app():
    found: dict[str, Any] = {}
    exec(compile(python("flower.md"), "flower.md", "exec", dont_inherit=True), found)
    assert type(found["app"]).__name__ == "ClientApp"


def test_the_tree_in_scale_md_is_a_flat_round():
    """Two nodes, one below the other, give what one gives."""
    import torch

    import polyrank

    it = fixtures.three_levels()
    method = polyrank.method("replication")
    asked = [update.client for update in it.updates]
    found: dict[str, Any] = {"state": it.server, "method": method, "asked": asked, "updates": it.updates}
    exec(compile(python("scale.md"), "scale.md", "exec", dont_inherit=True), found)
    flat = fixtures.conclude(method, it.server, it.updates).adapter
    for (name, ours), (_, theirs) in zip(found["result"].state.adapter.tensors(), flat.tensors(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)
    assert set(found["result"].used) | set(found["result"].dropped) == set(asked)


def test_blocks_are_found():
    """Fenced, indented, and formulas in lists are none; a reason belongs to the block that it stands before."""
    kinds = {block.kind for block in ALL}
    assert kinds == {"commands", "python", "toml", "json", "text"}
    assert len(ALL) > 60
    reasons = [block for block in ALL if block.reason]
    marks = sum(len(re.findall(r"(?m)^<!-- not run: ", page.read_text(encoding="utf-8"))) for page in PAGES)
    assert len(reasons) == marks
    assert not any("sum_k" in block.text for block in ALL if block.kind != "text")
