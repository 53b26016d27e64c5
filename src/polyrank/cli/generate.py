"""``polyrank generate``: what a trained model answers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polyrank.cli.console import errors, out, print_json
from polyrank.cli.options import MOST, BaseName, Client, Json, MaxTokens
from polyrank.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from polyrank.runs.answers import Answer


def generate(  # noqa: PLR0917  # Typer's way to declare options
    trained: Annotated[Path, typer.Argument(metavar="ADAPTER|RUN", help="Adapter, run or model folder.")],
    prompts: Annotated[
        list[str] | None, typer.Option("--prompt", "-p", metavar="TEXT", help="What is asked; several are answered.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="A prompt per line; - is standard input.")
    ] = None,
    system: Annotated[str | None, typer.Option("--system", metavar="TEXT", help="A system turn before each.")] = None,
    max_tokens: MaxTokens = MOST,
    base: Annotated[bool, typer.Option("--base", help="Also show what the base answers, without the adapter.")] = False,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="Draw tokens; by default the likeliest is taken.")
    ] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", help="Draw among the likeliest of this share.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of what is drawn.")] = 0,
    client: Client = None,
    model: BaseName = None,
    as_json: Json = False,
) -> None:
    """Answer prompts with a model that was trained to write, under the template of its training."""
    asked = [*(prompts or []), *(_read(file) if file else [])]
    if not asked:
        raise ConfigError("there is no prompt; give --prompt TEXT, several times if need be, or --file FILE")
    if temperature is None and top_p is not None:
        raise ConfigError(f"--top-p {top_p} says how tokens are drawn, and the likeliest is taken; add --temperature 1")
    if temperature is not None and not 0 < temperature < float("inf"):
        raise ConfigError(f"--temperature {temperature}: expected a number above 0; without it the likeliest is taken")
    if top_p is not None and not 0 < top_p <= 1:
        raise ConfigError(f"--top-p {top_p}: expected a number above 0 and at most 1")
    from polyrank.hf.generate import Sampling
    from polyrank.runs.answers import answers
    from polyrank.runs.trained import find, openings, untrained

    found = find(trained, client=client, model=model)
    if base and found.adapter is None:
        raise ConfigError(f"--base: {trained} is a whole model, without a base beside it; leave --base out")
    found.check_writes(f"polyrank evaluate {trained} --predictions FILE gives the answers of one that classifies")
    sampling = None if temperature is None else Sampling(temperature, 1.0 if top_p is None else top_p, seed)
    resident = found.resident()
    given = openings(found, resident, asked, system)
    own = answers(resident, found.task, given, max_tokens, sampling)
    before = None
    if base:
        resident.install(untrained(resident))
        before = answers(resident, found.task, given, max_tokens, sampling)
    if as_json:
        print_json(
            [
                {"prompt": prompt, **_described(own[i]), **({"base": _described(before[i])} if before else {})}
                for i, prompt in enumerate(asked)
            ]
        )
    else:
        _print(asked, own, before, max_tokens)


def _read(file: Path) -> list[str]:
    """The lines of a file that say something.

    Raises:
        DataError: it cannot be read.
    """
    from polyrank.core.encoding import decode

    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        text = decode(content)
    except (OSError, ValueError) as error:
        raise DataError(f"--file {file} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    found = text.splitlines()
    said = [line for line in found if line.strip()]
    if len(said) < len(found):
        errors.print(
            f"{len(found) - len(said)} of {len(found)} lines of {file} are blank, and no prompts", markup=False
        )
    return said


def _described(answer: Answer) -> dict[str, Any]:  # Any: plain JSON values
    return {"answer": answer.text, "tokens": answer.tokens, "cut": answer.cut}


def _print(asked: Sequence[str], own: Sequence[Answer], before: Sequence[Answer] | None, most: int) -> None:
    """A single answer stands alone, for a pipe; several follow on their prompts."""
    from polyrank.core.text import lines

    for i, prompt in enumerate(asked):
        if len(asked) > 1 or before:
            out.print(f"{'' if i == 0 else chr(10)}> {lines(prompt)}", style="bold", markup=False, soft_wrap=True)
        if before:
            out.print(f"base: {lines(before[i].text)}\ntrained: {lines(own[i].text)}", markup=False, soft_wrap=True)
        else:
            out.print(lines(own[i].text), markup=False, soft_wrap=True)
    if cut := sum(answer.cut for answer in [*own, *(before or [])]):
        count = len(own) + len(before or [])
        errors.print(f"{cut} of {count} answers were cut at {most} tokens; --max-tokens gives more", soft_wrap=True)
