"""The page: one HTML file with everything inside, which asks nothing of the network."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path

from polyrank.core.errors import ReportError
from polyrank.report import answer, details, writing
from polyrank.report.figure import Figure, Groups, Look, Missing, listed, looks
from polyrank.report.html import bullets, element, wrapped
from polyrank.report.sections import Section, sections
from polyrank.report.statistics import Comparison

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
"""The browser itself refuses to load anything that is not in the page."""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
{style}</style>
</head>
<body>
<header>
{header}
</header>
<main>
{main}
</main>
<noscript><p>The figures need JavaScript; it is in this page, and nothing is loaded.</p></noscript>
<script{nonce}>{plotly}</script>
<script{nonce}>
{script}</script>
</body>
</html>
"""


def write(page: Path, groups: Groups, comparison: Comparison) -> None:
    """Write the report of these runs as one file.

    Args:
        page: the file; it is replaced if it is there.
        groups: of `polyrank.report.runs.grouped`.
        comparison: of `polyrank.report.statistics.compare`, of the same groups.

    Raises:
        ReportError: the file cannot be written.
    """
    text = html(page, groups, comparison)
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(text, encoding="utf-8", errors="replace")  # half a character, as JSON can hold one
    except OSError as error:
        raise ReportError(f"{page} cannot be written: {error.strerror}; choose another file") from error


def html(page: Path, groups: Groups, comparison: Comparison) -> str:
    """The report as text; folders are named as seen from the file ``page``."""
    header = element("h1", "PolyRank report") + "\n" + about(groups, comparison)
    return framed(f"PolyRank: {', '.join(groups)}", header, body(page, groups, comparison), policy=POLICY)


def framed(title: str, header: str, main: str, *, policy: str, nonce: str = "", more: str = "") -> str:
    """A whole page, with style, scripts and Plotly inside.

    Args:
        title: as text.
        header: HTML.
        main: HTML.
        policy: what the browser may load and run.
        nonce: of the scripts, where the policy asks for one.
        more: a script after that of the page.
    """
    from plotly.offline import get_plotlyjs

    return PAGE.format(
        policy=escape(policy),
        title=escape(title),
        style=beside("page.css"),
        header=header,
        main=main,
        nonce=f' nonce="{nonce}"' if nonce else "",
        plotly=get_plotlyjs(),
        script=beside("page.js") + more,
    )


def body(page: Path, groups: Groups, comparison: Comparison) -> str:
    """The tables and figures, below the answer; arguments as of `html`."""
    look = looks(groups)
    below = {
        "ranks": details.ranks_table(groups),
        "costs": details.runs_table(groups, page) + details.failures_table(groups),
    }
    blocks = [
        (section.name, section.title, _figures(section, look) + below.get(section.name, ""))
        for section in sections(groups, comparison)
    ]
    blocks[1:1] = writing.blocks(groups, comparison)  # below what was learned
    if private := details.privacy_table(groups):
        blocks.append(("privacy", "Privacy", private))
    blocks.append(("configuration", "Configuration", details.configuration_details(groups)))
    blocks.append(("versions", "Versions and machine", details.versions_details(groups)))
    links = "\n".join(element("a", title, href=f"#{name}") for name, title, _ in blocks)
    main = [details.comparison_table(comparison), wrapped("nav", links, aria_label="Sections")]
    main += [
        wrapped("section", f"\n{element('h2', title, id=name)}\n{inner}\n", aria_labelledby=name)
        for name, title, inner in blocks
    ]
    return "\n".join(main)


def about(groups: Groups, comparison: Comparison) -> str:
    """Which runs, the answer, and what must be known before believing it."""
    runs = [run for group in groups.values() for run in group]
    data, models = ({run.config.data.train for run in runs}, {run.config.model.name for run in runs})
    count = f"{len(runs)} run{'s' if len(runs) > 1 else ''} of {listed(list(groups))}"
    notices = bullets(answer.notices(groups))
    return "\n".join(
        [
            element("p", f"{count}; data {listed(sorted(data))}; model {listed(sorted(models))}", class_="about"),
            element("p", answer.sentence(groups, comparison), class_="answer"),
            wrapped("div", notices, class_="notices") if notices else "",
        ]
    )


def _figures(section: Section, look: Mapping[str, Look]) -> str:
    return wrapped("div", "\n".join(_figure(figure, look) for figure in section.figures), class_="figures")


def _figure(figure: Figure | Missing, look: Mapping[str, Look]) -> str:
    if isinstance(figure, Missing):
        return element("p", f"No figure “{figure.title}”: {figure.reason}.", class_="missing")
    name = f"figure-{figure.name}"
    data = figure.plot.to_json().replace("<", "\\u003c")  # a label must not end the script element
    inner = [
        element("h3", figure.title),
        wrapped("div", "", class_="plot", id=name, role="img", aria_label=f"{figure.title}. {figure.caption}"),
        _legend(figure, look),
        element("figcaption", figure.caption),
        f'<script type="application/json" id="{name}-data">{data}</script>',
    ]
    return wrapped("figure", "\n".join(inner), **({"class_": "wide"} if figure.wide else {}))


def _legend(figure: Figure, look: Mapping[str, Look]) -> str:
    """Buttons instead of plotly's own legend, which squeezes a small plot; what else has a colour is text."""
    items = [
        wrapped("button", _sample(look[name]) + escape(name), type="button", aria_pressed="true", data_group=name)
        for name in (figure.legend if len(look) > 1 else ())
    ]
    items += [wrapped("span", _square(colour) + escape(name)) for name, colour in figure.keys.items()]
    return wrapped("ul", "".join(wrapped("li", item) for item in items), class_="legend") if items else ""


_STROKES = {"solid": "none", "dash": "6 3", "dot": "2 2", "dashdot": "6 2 2 2"}
_SHAPES = {
    "circle": "M8 6a4 4 0 1 0 8 0a4 4 0 1 0-8 0",
    "square": "M8 2h8v8h-8z",
    "diamond": "M12 1l5 5-5 5-5-5z",
    "triangle-up": "M12 1l5 9h-10z",
    "x": "M8 4l2-2 2 2 2-2 2 2-2 2 2 2-2 2-2-2-2 2-2-2 2-2z",
}


def _sample(look: Look) -> str:
    """Line and symbol of a group, small."""
    line = f'<path d="M0 6h24" stroke="{look.colour}" stroke-width="2.5" stroke-dasharray="{_STROKES[look.dash]}"/>'
    symbol = f'<path d="{_SHAPES[look.symbol]}" fill="{look.colour}"/>'
    return f'<svg width="24" height="12" aria-hidden="true">{line}{symbol}</svg>'


def _square(colour: str) -> str:
    return f'<svg width="12" height="12" aria-hidden="true"><path d="M0 0h12v12h-12z" fill="{colour}"/></svg>'


def beside(name: str) -> str:
    """The text of a file of this package."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
