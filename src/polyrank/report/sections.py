"""All figures of a report in their order, under their headings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from polyrank.report import clients, costs, curves, dilution, modules
from polyrank.report.figure import Figure, Groups, Missing, looks
from polyrank.report.runs import of_answers
from polyrank.report.statistics import Comparison
from polyrank.tasks import Metric, Task
from polyrank.tasks.metric import TEST

UNDIAGNOSED = "diagnostics were switched off, or the method has no global product"
FAR = 10.0
"""Values of which one is so many times another are drawn on a logarithmic axis, where they allow it."""


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
        Section("learning", _listed(shown.task), _learning(groups, comparison)),
        Section("ranks", "Ranks and labels", [clients.labels_figure(shown, comparison.reference)]),
        Section("groups", "Rank groups", [clients.rank_groups_figure(groups, look)]),
        Section("dilution", "Dilution", diluted),
        Section("collapse", "Rank collapse", _collapse(groups)),
        Section("error", "Aggregation error", [_error(groups), modules.error_figure(groups, look)]),
        Section("costs", "Time, memory and traffic", [costs.time_figure(groups), costs.memory_figure(groups, look)]),
    ]


def _listed(task: Task) -> str:
    """What is shown round by round."""
    words = " and ".join(metric.title for metric in task.metrics if metric.curve)
    return words[:1].upper() + words[1:]


def _learning(groups: Groups, comparison: Comparison) -> list[Figure | Missing]:
    sent = "sent up and down, MiB"
    figures: list[Figure | Missing] = []
    for metric in (metric for metric in comparison.task.metrics if metric.curve):
        key, first = f"{TEST}{metric.name}", metric is comparison.metric
        text = metric.about + (_own_models(groups) if first else "")
        unit = f", {metric.unit}" if metric.unit and not metric.share else ""
        common = {
            "y": f"test {metric.title}{unit}",
            "share": metric.share,
            "levels": _levels(groups, comparison) if first else None,
            "absent": "the run folders do not have it",
            "log": (wide := _spread_wide(groups, metric)),
        }
        text += " The axis is logarithmic, and means are those of logarithms." if wide else ""
        for samples, x, against in ((curves.by_round(key), "round", "rounds"), (curves.by_bytes(key), sent, "bytes")):
            caption = text if x == "round" else f"{text} Against all that was sent by then, the scoring round included."
            figures.append(
                curves.figure(
                    groups, looks(groups), samples, name=f"{metric.name}-{against}",
                    title=f"Test {metric.title} against {against}", caption=caption, x=x,
                    **common,  # type: ignore[arg-type]  # values of several types
                )
            )  # fmt: skip
    return figures


def _spread_wide(groups: Groups, metric: Metric) -> bool:
    """Whether values that have no upper end, and are above 0 by their nature, lie far apart, as perplexities may."""
    if metric.least <= 0 or math.isfinite(metric.most):
        return False
    found = [line.get(f"{TEST}{metric.name}") for runs in groups.values() for run in runs for line in run.course]
    values = [value for value in found if value is not None and math.isfinite(value) and value > 0]
    return bool(values) and max(values) > FAR * min(values)


def _own_models(groups: Groups) -> str:
    """What is shown of methods whose clients have models of their own."""
    said = ""
    for name, runs in groups.items():
        if stay := runs[0].about.get("stay_with_clients"):
            said += f" Of {name}, whose {' and '.join(stay)} stay with the clients: the mean over the round's clients."
    return said


def _levels(groups: Groups, comparison: Comparison) -> dict[str, float]:
    """The target, and the best constant answer where the runs have one test set."""
    metric = comparison.metric
    found = {f"target {metric.level(comparison.target)}": comparison.target}
    summaries = [run.summary for runs in groups.values() for run in runs if run.summary]
    constants = {(summary.get(f"constant/{metric.name}"), of_answers(summary)) for summary in summaries}
    value, of = constants.pop() if len(constants) == 1 else (None, "")
    if value is not None:
        found[f"{comparison.task.baseline(of)} {metric.text(value)}"] = value
    return {label: level for label, level in found.items() if math.isfinite(level)}


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
