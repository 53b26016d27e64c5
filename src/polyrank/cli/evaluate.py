"""``polyrank evaluate``: what a trained model comes to on any data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polyrank.cli.console import out, print_json, table
from polyrank.cli.options import MOST, BaseName, Client, Json, MaxTokens, Overrides
from polyrank.core.errors import ConfigError

if TYPE_CHECKING:
    from polyrank.config import Config
    from polyrank.runs.measuring import Asked
    from polyrank.runs.trained import Trained


def evaluate(  # noqa: PLR0917  # Typer's way to declare options
    trained: Annotated[Path, typer.Argument(metavar="ADAPTER|RUN", help="Adapter, run or model folder.")],
    config: Annotated[
        Path | None, typer.Argument(help="TOML file whose test data are used; without it the run's own.")
    ] = None,
    source: Annotated[
        str | None, typer.Option("--data", metavar="FILE", help="Test data in place of the configuration's.")
    ] = None,
    overrides: Overrides = None,
    samples: Annotated[
        int, typer.Option("--samples", min=0, help="Let it answer so many of them: ROUGE-L and exact match.")
    ] = 0,
    max_tokens: MaxTokens = MOST,
    base: Annotated[bool, typer.Option("--base", help="Also measure the base, without the adapter.")] = False,
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--predictions",
            metavar="FILE",
            help="Write each text's class and probabilities, or each answer: csv, jsonl.",
        ),
    ] = None,
    harness: Annotated[
        str | None,
        typer.Option("--harness", metavar="TASKS", help="Run these of lm-eval's tasks, or YAML files, with commas."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--harness-limit", min=1, help="At most so many documents of each of lm-eval's tasks.")
    ] = None,
    client: Client = None,
    model: BaseName = None,
    as_json: Json = False,
) -> None:
    """Measure a trained model: on the run's own test data, or on any others."""
    from polyrank.hf.harness import check_installed
    from polyrank.runs.trained import find, untrained

    if harness:
        check_installed()
    found = find(trained, client=client, model=model)
    writes = found.task.writes
    _check(found, writes=writes, wants={"--samples": bool(samples), "--base": base, "--harness": bool(harness)})
    if predictions:
        from polyrank.cli.predictions import check_free

        check_free(predictions)
        if writes and not samples:
            raise ConfigError("--predictions of a model that writes are its answers; say how many: --samples N")
    chosen = _config(found, config, overrides or [])
    resident = found.resident()
    described: dict[str, Any] = {"model": found.words, "precision": str(resident.dtype).removeprefix("torch.")}
    what = None
    if found.run or chosen or source or samples or not harness:  # else nothing but benchmarks was asked for
        from polyrank.runs.measuring import asked, measure

        what = asked(found, chosen, source, resident.base.tokenizer)
        described |= _of_data(what)
        if what.labelled:
            described["test"] = measure(resident, what)
        elif not predictions:
            raise ConfigError(
                f"{what.dataset.where} has no labels, so nothing can be measured; name their column with "
                "--set data.label=NAME, or write what the model says of each text: --predictions FILE"
            )
    if what and (samples or predictions):
        described |= _answered(resident, what, samples, max_tokens, predictions)
    if harness:
        from polyrank.hf.harness import run

        prompts = found.task.frame(resident.base.tokenizer).get("template", "none")
        size = what.config.evaluation.batch_size if what else 8
        described["harness"] = run(resident, harness.split(","), chat=prompts == "chat", batch_size=size, limit=limit)
    if base and what:
        from polyrank.runs.measuring import measure

        resident.install(untrained(resident))
        described["base"] = measure(resident, what)
    if as_json:
        print_json(_plain(described))
    else:
        _print(found, what, described)


def _check(found: Trained, *, writes: bool, wants: Mapping[str, bool]) -> None:
    """Refuse options that say nothing of the model.

    Raises:
        ConfigError: names the first.
    """
    for option, given in wants.items():
        if given and not writes:
            raise ConfigError(f"{option} is of models that write, and {found.path} was trained for {found.target.task}")
    if wants["--base"] and found.adapter is None:
        raise ConfigError(f"--base: {found.path} is a whole model, without a base beside it; leave --base out")


def _config(found: Trained, config: Path | None, overrides: list[str]) -> Config | None:
    """What the user says of the data; None for what the run says."""
    from polyrank import config as configuration

    if config is not None:
        return configuration.load(config, overrides)
    if not overrides:
        return None
    own = found.run.read_config() if found.run else configuration.Config()
    return configuration.override(own, overrides)


def _of_data(what: Asked) -> dict[str, Any]:  # Any: plain JSON values
    examples = what.encoded.examples
    return {
        "data": what.dataset.where,
        "task": what.config.task.name,
        "examples": len(examples),
        **({"trained_tokens": what.task.units(examples, range(len(examples)))} if what.task.writes else {}),
        "max_tokens": what.config.data.max_tokens,
        "cut": len(what.encoded.cut),
        "left_out": {reason: len(rows) for reason, rows in what.encoded.left_out.items()},
    }


def _answered(
    resident: Any, what: Asked, samples: int, most: int, file: Path | None
) -> dict[str, Any]:  # Any: a ResidentModel, whose import is heavy; plain JSON values
    """What the model says of each text, summed up, and in a file if that was asked for."""
    from polyrank.cli import predictions
    from polyrank.runs.measuring import compared, probabilities, replies

    said: dict[str, Any] = {}
    if what.task.writes:
        found = replies(resident, what, samples, most)
        rows = predictions.of_replies(found)
        said["answers"] = {**compared(found), "max_tokens": most}
    else:
        rows = predictions.of_classes(what, probabilities(resident, what))
    if file:
        predictions.write(file, rows)
        said["predictions"] = str(file)
    return said


def _print(found: Trained, what: Asked | None, described: Mapping[str, Any]) -> None:
    from polyrank.tasks.metric import BY_KIND, SHARE, Metric

    if what:
        units = f", {described['trained_tokens']:,} trained tokens" if "trained_tokens" in described else ""
        notes = [f"{described['cut']} cut to {described['max_tokens']} tokens"] if described["cut"] else []
        notes += [f"{rows} left out: {reason}" for reason, rows in described["left_out"].items()]
        about = "; ".join([f"{described['examples']} examples{units}", *notes, f"in {described['precision']}"])
        _say(f"{found.words} on {described['data']}: {about}")
    metrics = found.task.metrics
    if "test" in described:
        columns = {"": described["test"], **({"base": described["base"]} if "base" in described else {})}
        made = table(None, "", *(["trained", "base"] if "base" in columns else ["test"]))
        for metric in metrics:
            made.add_row(metric.title, *(metric.number(scores.get(metric.name)) for scores in columns.values()))
        out.print(made)
        if kinds := described["test"].get(f"{metrics[0].name}{BY_KIND}"):
            made = table("\nby kind", "", *(metric.title for metric in metrics))
            for kind in kinds:
                own = (metric.number(described["test"][f"{metric.name}{BY_KIND}"][kind]) for metric in metrics)
                made.add_row(kind, *own)
            out.print(made)
    if answers := described.get("answers"):
        share = Metric("exact", "exact match", "higher", SHARE, 1)
        _say(
            f"\n{answers['answers']} answers: ROUGE-L {answers['rouge_l']:.3f}, exact match "
            f"{share.number(answers['exact_match'])}; {answers['cut']} cut at {answers['max_tokens']} tokens, "
            f"{answers['empty']} empty, {answers['unread']} whose right answer has no word that ROUGE knows"
        )
    for task, values in described.get("harness", {}).items():
        _say(f"\n{task}: " + ", ".join(f"{name} {value:.6g}" for name, value in values.items()))
    if file := described.get("predictions"):
        _say(f"predictions: {file}")


def _plain(value: Any) -> Any:  # Any: plain JSON values
    from polyrank.runs.folder import plain

    return plain(value)


def _say(text: str) -> None:
    out.print(text, markup=False, soft_wrap=True)
