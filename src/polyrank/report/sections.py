"""All figures of a report in their order, under their headings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from polyrank.report import clients, costs, curves, dilution, modules
from polyrank.report.figure import Figure, Groups, Missing, looks
from polyrank.report.statistics import Comparison

UNDIAGNOSED = "diagnostics were switched off, or the method has no global product"


@dataclass(frozen=True)
class Section:
    """A heading with its figures.

    Args:
        name: its place on the page, small letters and hyphens.
        title: the heading.
        figures: those that could be drawn and those that could not.
    """

    name: str
    title: str
    figures: Sequence[Figure | Missing]


def sections(groups: Groups, comparison: Comparison) -> list[Section]:
    """The figures of a report."""
    look, shown = looks(groups), groups[comparison.reference][0]
    diluted = [dilution.ratio_figure(groups, look), dilution.owners_figure(groups), dilution.energy_figure(groups)]
    return [
        Section("learning", "Accuracy and loss", _learning(groups, comparison)),
        Section("ranks", "Ranks and labels", [clients.labels_figure(shown, comparison.reference)]),
        Section("groups", "Rank groups", [clients.rank_groups_figure(groups, look)]),
        Section("dilution", "Dilution", diluted),
        Section("collapse", "Rank collapse", _collapse(groups)),
        Section("error", "Aggregation error", [_error(groups), modules.error_figure(groups, look)]),
        Section("costs", "Time, memory and traffic", [costs.time_figure(groups), costs.memory_figure(groups, look)]),
    ]


def _learning(groups: Groups, comparison: Comparison) -> list[Figure | Missing]:
    sent = "sent up and down, MiB"
    accuracy = "Share of the test set that the global adapter classifies correctly, after each evaluated round."
    for name, runs in groups.items():
        if stay := runs[0].about.get("stay_with_clients"):
            accuracy += (
                f" Of {name}, whose {' and '.join(stay)} stay with the clients: the mean over the round's clients."
            )
    loss = "Mean cross-entropy on the test set; it also sees how sure the model is of its answers."
    level = {f"target {100 * comparison.target:g} %": comparison.target} | _constant(groups)
    figures: list[Figure | Missing] = []
    for key, y, text, share, levels in (
        ("test/accuracy", "test accuracy", accuracy, True, level),
        ("test/loss", "test loss, nats", loss, False, None),
    ):
        name, what = key.rpartition("/")[2], y.partition(",")[0].capitalize()
        common = {"y": y, "share": share, "levels": levels, "absent": "the run folders do not have it"}
        for samples, x, against in ((curves.by_round(key), "round", "rounds"), (curves.by_bytes(key), sent, "bytes")):
            caption = text if x == "round" else f"{text} Against all that was sent by then, the scoring round included."
            figures.append(
                curves.figure(
                    groups, looks(groups), samples, name=f"{name}-{against}", title=f"{what} against {against}",
                    caption=caption, x=x, **common,  # type: ignore[arg-type]  # values of several types
                )
            )  # fmt: skip
    return figures


def _constant(groups: Groups) -> dict[str, float]:
    """The accuracy of the best constant answer, where the runs have one test set."""
    summaries = [run.summary for runs in groups.values() for run in runs if run.summary]
    found = {summary.get("constant/accuracy") for summary in summaries}
    value = found.pop() if len(found) == 1 else None
    return {} if value is None else {f"best constant answer {100 * value:.1f} %": value}


def _collapse(groups: Groups) -> list[Figure | Missing]:
    return [
        curves.figure(
            groups, looks(groups), curves.by_round("rank/energy_in_lowest"),
            name="energy-in-lowest", title="Energy within the lowest rank",
            caption=(
                "Share of the global update's energy in as many singular values as the lowest rank of any client. Near "
                "100 % the rank has collapsed: what is above the lowest rank adds nothing."
            ),
            absent=UNDIAGNOSED, y="share of the energy", share=True,
        ),
        curves.figure(
            groups, looks(groups), curves.by_round("rank/effective"),
            name="effective-rank", title="Effective rank",
            caption=(
                "How many directions the global update uses: exp of the entropy of its energies, mean over the "
                "modules. Low against the highest rank of a client means collapse."
            ),
            absent=UNDIAGNOSED, y="effective rank",
        ),
    ]  # fmt: skip


def _error(groups: Groups) -> Figure | Missing:
    return curves.figure(
        groups, looks(groups), curves.by_round("aggregation/error"),
        name="aggregation-error", title="Aggregation error against rounds",
        caption=(
            "Distance between how the global model changed and the weighted mean of the clients' products, relative to "
            "that mean; 0 is exact."
        ),
        absent=UNDIAGNOSED, y="error, relative",
    )  # fmt: skip
