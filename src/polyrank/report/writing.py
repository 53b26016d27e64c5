"""What a report shows of models that write: each kind of text before and after, what was written, what was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from polyrank.report.figure import Groups, listed
from polyrank.report.html import element, table
from polyrank.report.kinds import Change, kinds
from polyrank.report.runs import Run
from polyrank.report.statistics import Comparison
from polyrank.tasks import Metric

Block = tuple[str, str, str]
"""A section: its place on the page, its heading, its HTML."""
LONGEST = 2000
"""Characters of a text that are shown."""
MOST_KINDS = 50


def blocks(groups: Groups, comparison: Comparison) -> list[Block]:
    """The sections for which there is something to show."""
    found = (
        ("kinds", "Kinds of text", kinds_table(groups, comparison)),
        ("written", "What the model writes", samples_tables(groups)),
        ("left-out", "Rows that are no examples", left_out_table(groups, comparison)),
    )
    return [block for block in found if block[2]]


def kinds_table(groups: Groups, comparison: Comparison) -> str:
    """A row per kind, the worst at the end first: before and after, and how far it came; nothing without kinds."""
    shown = {row.name: row.kinds for row in comparison.rows if row.kinds}
    if not shown:
        return ""
    if len(shown) == 1:
        ((name, found),) = shown.items()
        rows, headings = _alone(groups[name], comparison, found)
    else:
        rows, headings = _side_by_side(comparison, shown)
    more = len(rows) - MOST_KINDS
    note = " ".join(_worst(name, found, comparison.metric) for name, found in shown.items())
    if more > 0:
        note += f" {more} more kinds are in metrics.jsonl."
    return table("Kinds of text", headings, rows[:MOST_KINDS]) + element("p", note, class_="caption")


def _alone(
    runs: Sequence[Run], comparison: Comparison, found: Mapping[str, Change]
) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """One method: before, after and change of its primary metric, before and after of its other curves."""
    metric = comparison.metric
    others = [one for one in comparison.task.metrics if one.curve and one is not metric]
    beside = [(one, by_kind) for one in others if (by_kind := kinds(runs, one))]
    rows = [
        (
            kind,
            *(metric.number(change.before), metric.number(change.after), _gap(metric, change)),
            *(one.number(value) for one, by_kind in beside for value in _both(by_kind.get(kind))),
        )
        for kind, change in found.items()
    ]
    named = [f"{one.title} {when}" for one, _ in beside for when in ("before", "after")]
    return rows, ("kind", f"{metric.title} before", "after", "change", *named)


def _side_by_side(
    comparison: Comparison, shown: Mapping[str, Mapping[str, Change]]
) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """Several methods: the primary metric before, and after each; in the reference's order."""
    metric, nothing = comparison.metric, Change(None, None)
    order = dict.fromkeys([*shown.get(comparison.reference, ()), *(kind for own in shown.values() for kind in own)])
    firsts = {kind: {metric.number(own[kind].before) for own in shown.values() if kind in own} for kind in order}
    one_base = all(len(texts) == 1 for texts in firsts.values())
    rows = []
    for kind in order:
        cells = [metric.number(own.get(kind, nothing).after) for own in shown.values()]
        rows.append((kind, *([next(iter(firsts[kind]))] if one_base else []), *cells))
    return rows, ("kind", *([f"{metric.title} before"] if one_base else []), *(f"{name}, after" for name in shown))


def _both(change: Change | None) -> tuple[float | None, float | None]:
    return (None, None) if change is None else (change.before, change.after)


def _gap(metric: Metric, change: Change) -> str:
    if change.before is None or change.after is None:
        return "-"
    return metric.bare(change.after - change.before, signed=True)


def _worst(name: str, found: Mapping[str, Change], metric: Metric) -> str:
    """Which kind is the worst, and which became worse."""
    kind, change = next(iter(found.items()))
    said = f"{name}: the worst is {kind} with {metric.text(metric.measured(change.after))}"
    pairs = ((kind, change.before, change.after) for kind, change in found.items())
    worse = [
        kind
        for kind, before, after in pairs
        if before is not None and (after is None or metric.merit(after) < metric.merit(before))
    ]
    if worse:
        return f"{said}; worse than before: {listed(worse)}."
    return (
        f"{said}; none is worse than before." if all(one.before is not None for one in found.values()) else f"{said}."
    )


def samples_tables(groups: Groups) -> str:
    """A table per prompt of the first seed: the right answer, what the base wrote, and what each method wrote."""
    written: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for name, runs in groups.items():
        who = f" ({name})" if len(groups) > 1 else ""
        for row in runs[0].samples:
            key = row.get("prompt", ""), row.get("reference", "")
            rows = written.setdefault(key, [])
            before = ("before the first round", row.get("before", ""))
            if before not in rows:
                rows.append(before)
            after = row.get("after", "nothing yet: the run is not finished")
            rows.append((f"after the last round{who}", after))
    found = []
    for (prompt, reference), rows in written.items():
        lines = [("prompt", prompt), ("right answer", reference), *rows]
        found.append(
            table("What was written", ("", "text"), [(who, _shown(text)) for who, text in lines], written=True)
        )
    return "\n".join(found)


def _shown(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ... ({len(text) - LONGEST} more characters)"


def left_out_table(groups: Groups, comparison: Comparison) -> str:
    """How many rows are no examples, by reason, and whose most of them are; nothing where there are none."""
    run = groups[comparison.reference][0]
    rows, held = Counter[str](), Counter[str]()
    most: dict[str, tuple[str, int]] = {}
    for client, about in run.clients.items():
        for reason, count in (about.get("left_out") or {}).items():
            rows[reason] += count
            held[reason] += 1
            if count > most.get(reason, ("", 0))[1]:
                most[reason] = client, count
    if not rows:
        return ""
    cells = [
        (reason, str(count), str(held[reason]), f"{most[reason][0]}: {most[reason][1]}")
        for reason, count in rows.most_common()
    ]
    whole = sum(about["examples"] for about in run.clients.values())
    note = f"Of {comparison.reference}, seed {run.seed}, beside {whole} examples; clients.json has each client."
    headings = ("reason", "rows", "clients", "most of them")
    return table("Rows that are no examples", headings, cells, text=True) + element("p", note, class_="caption")
