"""The page of every method, and the picture of what arrives of each client's rank indices."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from tools.pages import arrival, links, methods

from polyrank.aggregation import METHODS

ROOT = Path(__file__).parents[2]
HEADINGS = (
    *("Idea and formula", "Who fills what", "Exact or not, and what travels", "Options", "When to use it", "Measured"),
    "Source",
)
NINETEEN = (
    *("fedavg", "zero_padding", "zero_padding_delta", "hetlora", "replication", "owner_mean", "tempered", "shrinkage"),
    *("flora", "flexlora", "raflora", "florist", "fedhl", "fedex", "lora_fair", "ffa", "rolora", "fedsa", "fedsvd"),
)
"""Methods that take the round of the picture; others may need more than factors of a client."""


@pytest.mark.parametrize("name", METHODS)
def test_a_page_says_all_that_is_known(name: str):
    page = methods.page(name)
    assert re.findall(r"^## (.+)$", page, flags=re.MULTILINE) == list(HEADINGS)
    assert methods.paragraph(name), f"docs/methods.md has no paragraph that begins with **{name}**"
    assert page.count("<svg") == 1 or "There is no picture of this method: " in page


@pytest.mark.parametrize("name", METHODS)
def test_shares_are_measured_for_every_method(name: str):
    """Rank indices that a client has are shown, others are not."""
    try:
        found = arrival.measure(name)
    except arrival.UnmeasuredError:
        assert name not in NINETEEN
        return
    for client, rank in arrival.RANKS.items():
        shares = found.shares[client]
        held = 3 if METHODS[name].info.equal_ranks else rank
        assert [share is not None for share in shares] == [j < held for j in range(len(shares))]
        assert all(math.isfinite(share) and share >= 0 for share in shares if share is not None)


@pytest.mark.parametrize("name", [name for name, cls in METHODS.items() if cls.info.exact == "yes"])
def test_of_an_exact_method_each_client_arrives_by_its_weight(name: str):
    """Four clients of equal weight: a quarter. Where factors take turns, or one stays, the product is another thing."""
    found = arrival.measure(name)
    if found.of_a or METHODS[name]().parts(1).trains != METHODS[name]().parts(2).trains:
        return
    shares = [share for shares in found.shares.values() for share in shares if share is not None]
    assert shares == pytest.approx([0.25] * len(shares), rel=1e-6)


def test_shares_that_were_worked_out():
    """One owner of four: zero padding leaves a quarter of A and of B, so a sixteenth; the other two leave all of it."""
    upper = {name: arrival.measure(name).shares["ann"][3:] for name in ("zero_padding", "replication", "owner_mean")}
    assert upper["zero_padding"] == pytest.approx([1 / 16] * 3, rel=1e-6)
    assert upper["replication"] == upper["owner_mean"] == pytest.approx([1.0] * 3, rel=1e-6)


def test_a_method_that_takes_no_such_updates_has_no_picture(monkeypatch: pytest.MonkeyPatch):
    """An update that is left out would look like one of which nothing arrives."""
    monkeypatch.setattr(arrival, "_updates", lambda *_: {"ann": arrival.ClientUpdate("ann", arrival.Adapter({}), -1.0)})
    with pytest.raises(arrival.UnmeasuredError, match="the update of ann is"):
        arrival.measure("replication")
    assert arrival.picture("replication").startswith("There is no picture of this method: ")


def test_advice_is_of_methods_that_there_are():
    text = (ROOT / "docs" / "choose.md").read_text(encoding="utf-8").partition("### Each method")[2]
    named = re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)
    assert set(named) <= set(METHODS)
    assert len(named) == len(set(named)) > 15
    assert methods.when("replication").startswith("Take it when: wide clients have good data")
    assert methods.when("no_such_method").startswith("No advice yet")


def test_measured_rows_are_of_the_method_alone():
    """`zero_padding` is not `zero_padding_delta`, and replication's row stands beside it."""
    rows = [line for line in methods.measured("zero_padding").splitlines() if line.startswith("| ")]
    names = {row.split(" | ")[0].strip("| ") for row in rows}
    assert names == {"method", "replication", "zero_padding"}
    assert methods.measured("no_such_method").startswith("Not measured yet")


def test_links_of_the_repository_are_led_to_the_site():
    led = links.in_site("[a](../paper/RESULTS.md#gamma) [b](methods.md) [c](../README.md) [d](https://e.f)", "why.md")
    assert led == (
        "[a](results/RESULTS.md#gamma) [b](methods.md) "
        "[c](https://github.com/polyrank/polyrank/blob/main/README.md) [d](https://e.f)"
    )
    assert links.in_site("[x](docs/methods.md)", "contributing.md") == "[x](methods.md)"
    assert links.in_site("![x](figures/gamma.svg)", "results/RESULTS.md") == "![x](figures/gamma.svg)"


def test_a_text_of_another_page_keeps_its_links():
    led = links.moved(
        "[a](../paper/RESULTS.md#gamma) [b](trust.md) [c](#here) [d](https://e.f)", "docs/a.md", "docs/methods/b.md"
    )
    assert led == "[a](../../paper/RESULTS.md#gamma) [b](../trust.md) [c](#here) [d](https://e.f)"
    assert "](../../paper/RESULTS.md#the-main-table)" in methods.paragraph("validated")
