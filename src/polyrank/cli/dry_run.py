"""``polyrank run --dry-run``: a run up to where it would begin to train."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from polyrank.cli.console import duration, out
from polyrank.cli.plan import count, show

if TYPE_CHECKING:
    from polyrank.config import Config
    from polyrank.federation.server import Server


def about(server: Server) -> str:
    """What a run reads, and how it will train."""
    config, site = server.config, server.site
    labels = f", {len(site.labels)} labels" if site.labels else ""
    sizes = server.population.sizes.values()
    return (
        f"read {server.rows_read}\n"
        f"{len(sizes)} clients with {min(sizes)} to {max(sizes)} examples of {config.data.train}"
        f"{labels}; {len(site.test)} test examples\n"
        f"model {config.model.name}, head {config.model.head}; {config.training.precision}, "
        f"{config.training.attention} attention; {site.plan}; aggregation {config.aggregation.method}"
    )


def dry_run(given: Config | None, folder: Path, overrides: Sequence[str], *, resume: bool, overwrite: bool) -> None:
    """Do all that a run does before it trains, and say what it would do.

    Raises:
        PolyRankError: whatever a run would raise before its first round.
    """
    from polyrank import config as configuration
    from polyrank.federation.planning.outlook import outlook_of
    from polyrank.federation.planning.timing import seconds
    from polyrank.runs.opening import check_ready, opening
    from polyrank.runs.runner import saved_config

    with out.status("loading the libraries, the data and the model"):
        opened = opening(
            given or configuration.override(saved_config(folder), overrides), folder, resume=resume, overwrite=overwrite
        )
    server, played = opened.server, opened.state.round if opened.state else 0
    try:
        check_ready(opened)
        out.print(f"{about(server)}\n", markup=False)
        ahead = outlook_of(server)
        show(ahead, count(ahead))
        with out.status("timing a few steps"):
            needed = seconds(server, played)
    finally:
        server.close()
    time_needed = "unknown until measured: the nodes of a cluster train"
    if needed is not None:
        parts = {"training": needed.training, "measuring": needed.measuring, "scoring": needed.scoring}
        each = ", ".join(f"{name} {duration(took)}" for name, took in parts.items() if took)
        time_needed = (
            f"about {duration(needed.total)} of computing here ({each}), by a few steps that were timed now, without "
            "aggregation, diagnostics and saving"
        )
    goes_on = f"go on after round {played} in" if opened.state else "be written to"
    out.print(
        f"time: {time_needed}\n"
        f"everything was checked; nothing was trained or written. The run would {goes_on} {folder}",
        markup=False,
        soft_wrap=True,
    )
