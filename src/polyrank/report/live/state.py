"""What a run is doing now: how far it is, who takes part, what was left out and why, and how long it will go on."""

from __future__ import annotations

from collections.abc import Sequence

from polyrank.core.text import duration, size
from polyrank.report.html import element, table, wrapped
from polyrank.report.live.reading import Watched
from polyrank.report.runs import Run
from polyrank.runs.pace import recorded

MOST_CLIENTS = 50
QUIET, ROUNDS = 60.0, 5
"""Seconds, and times the length of a round, after which a run that does not change is said to stand still."""


def cards(watched: Sequence[Watched], now: float) -> str:
    """A card for each run.

    Args:
        watched: as they were read last.
        now: seconds since 1970.
    """
    return wrapped(
        "ul", "\n".join(wrapped("li", _card(one, now), data_key=str(one.path)) for one in watched), class_="runs"
    )


def words(one: Watched, now: float) -> str:
    """How far a run is, in a line."""
    run, ago = one.run, max(now - one.changed, 0.0)
    if run is None:
        return f"begun {duration(ago)} ago; no round yet" if one.begun else "not begun yet"
    rounds, played = run.config.federation.rounds, len(run.lines)
    if run.stopped_early:
        return f"ended early, after round {played} of {rounds}"
    if run.summary is not None:
        return f"ended after {played} rounds"
    far = f"round {played} of {rounds}" if played else "no round yet"
    took = [line["seconds"] for line in run.lines[-ROUNDS:] if line.get("seconds")]
    if ago > max(QUIET, ROUNDS * max(took, default=QUIET)):
        return f"{far}; last change {duration(ago)} ago: paused or stopped, or busy for longer than its rounds took"
    return f"{far}; {_left(run, ago)}last change {duration(ago)} ago"


def _left(run: Run, ago: float) -> str:
    """The time left, as `polyrank run` shows it, from what the run wrote of its rounds."""
    if not run.lines:
        return ""
    ranks = [client["rank"] for client in run.clients.values()]
    left = recorded(run.lines).left_after(len(run.lines), ranks, run.config) - ago
    return f"about {duration(left)} left; " if left >= 1 else "about to end; " if _played(run) else ""


def _played(run: Run) -> bool:
    return len(run.lines) >= run.config.federation.rounds


def _card(one: Watched, now: float) -> str:
    parts = [element("h2", one.name)]
    if one.run is not None:
        done, rounds = len(one.run.lines), one.run.config.federation.rounds
        whole = rounds if one.run.summary is None else max(done, 1)
        parts.append(element("progress", "", max=str(whole), value=str(done), aria_label=f"rounds of {one.name}"))
    parts.append(element("p", words(one, now)))
    if one.fault:
        shown = " What is shown is as it was before." if one.run else ""
        parts.append(element("p", f"{one.fault}.{shown}", class_="fault"))
    if one.run is not None and one.run.lines:
        parts += [element("p", _so_far(one.run)), _cohort(one.run)]
    return "\n".join(parts)


def _so_far(run: Run) -> str:
    up, down = (run.scoring.get(key, 0) + sum(line[key] for line in run.lines) for key in ("bytes/up", "bytes/down"))
    sent = f"sent up {size(up)}, down {size(down)}"
    if not run.evaluated:
        return f"{sent}; no round was evaluated yet"
    metric = run.task.primary
    return f"{metric.named(run.values[-1], 'test')} in round {run.rounds[-1]}; {sent}"


def _cohort(run: Run) -> str:
    """Who took part in the last round, those first that were left out."""
    line = run.lines[-1]
    dropped, clients = line.get("dropped") or {}, line.get("clients") or ()
    everyone = sorted({*clients, *dropped}, key=lambda client: (client not in dropped, client))
    if not everyone:
        return element("p", "who takes part is not said")
    ranks = line.get("ranks") or {}
    rows = []
    for client in everyone[:MOST_CLIENTS]:
        about = run.clients.get(client, {})
        rank = ranks.get(client, about.get("rank", "-"))
        rows.append((client, str(rank), str(about.get("group") or "-"), str(dropped.get(client, "took part"))))
    more = len(everyone) - MOST_CLIENTS
    note = element("p", f"and {more} more; metrics.jsonl has them all", class_="caption") if more > 0 else ""
    lost = f", {len(dropped)} left out" if dropped else ""
    of = f" of {len(run.clients)}" if run.clients else ""
    said = f"Round {line['round']}: {len(everyone)}{of} clients{lost}"
    inner = table("Who took part", ("client", "rank", "group", "its update"), rows, text=True) + note
    return wrapped("details", element("summary", said) + inner)
