"""A version is written once; what stands beside the code for a release says the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import polyrank
from polyrank.aggregation import METHODS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def test_package_changelog_and_citation_are_of_one_version():
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert polyrank.__version__ == PROJECT["version"] == versions[0] == CITATION["version"]
    assert len(versions) == len(set(versions))


def test_no_source_file_repeats_the_version():
    for path in (ROOT / "src").rglob("*.py"):
        assert f'"{PROJECT["version"]}"' not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("page", ["start", "hour"])
def test_a_page_that_names_what_is_needed_names_the_lowest_versions(page: str):
    needed = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["flower"]]
    lowest = dict(re.findall(r"(\w+)(?:\[\w+\])?>=([\d.]+)", " ".join(needed)))
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    named = {"PyTorch": "torch", "transformers": "transformers", "PEFT": "peft", "Flower": "flwr"}
    found = re.findall(rf"\b({'|'.join(named)}) (\d[\d.]*\d)", text)
    assert len(found) >= 3
    assert [lowest[named[name]] for name, _ in found] == [version for _, version in found]


def test_the_citation_is_of_this_project():
    assert CITATION["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(CITATION)
    assert (CITATION["license"], CITATION["repository-code"]) == (PROJECT["license"], PROJECT["urls"]["Source"])
    assert all({"type", "title", "authors"} <= set(one) for one in CITATION["references"])
    assert CITATION["references"][0]["url"] == METHODS["replication"].info.paper


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].info.paper])
def test_the_paper_of_every_method_is_cited(name: str):
    paper = METHODS[name].info.paper
    cited = [one for one in CITATION["references"] if one.get("url") == paper or one["title"].startswith(paper)]
    assert len(cited) == 1
    assert f"`{name}`" in cited[0]["title"] + cited[0].get("notes", "")


def test_security_and_templates_lead_to_the_private_form():
    form = PROJECT["urls"]["Source"] + "/security/advisories/new"
    links = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "config.yml").read_text(encoding="utf-8"))
    assert form in (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert [link["url"] for link in links["contact_links"]] == [form]


@pytest.mark.parametrize("name", ["fault", "proposal"])
def test_an_issue_template_is_a_form(name: str):
    form: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text("utf-8"))
    assert {"name", "description", "body"} <= set(form)
    fields = [field["id"] for field in form["body"]]
    assert len(fields) == len(set(fields))
