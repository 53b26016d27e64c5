"""Pieces of HTML: whatever text comes in is escaped here, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def element(tag: str, text: str, **attributes: str) -> str:
    """An element around text.

    >>> element("p", "a < b", title='"x"')
    '<p title="&quot;x&quot;">a &lt; b</p>'
    """
    return wrapped(tag, escape(text), **attributes)


def wrapped(tag: str, inner: str, **attributes: str) -> str:
    """An element around HTML; a trailing underscore of an attribute's name is taken off, others become hyphens.

    >>> wrapped("p", "<b>x</b>", class_="note", aria_label="y")
    '<p class="note" aria-label="y"><b>x</b></p>'
    """
    names = [name.rstrip("_").replace("_", "-") for name in attributes]
    written = [f' {name}="{escape(value)}"' for name, value in zip(names, attributes.values(), strict=True)]
    return f"<{tag}{''.join(written)}>{inner}</{tag}>"


def table(
    label: str, headings: Sequence[str], rows: Iterable[Sequence[str]], *, text: bool = False, written: bool = False
) -> str:
    """A table whose first column names the row; it scrolls inside its own box where it is too wide.

    Args:
        label: what it is, for those who do not see it.
        headings: of the columns.
        rows: cells as text.
        text: whether the cells hold words, which may be broken into lines, and not numbers.
        written: whether they are what somebody wrote, with lines of its own.
    """
    kept = [heading.replace(" %", "\u00a0%") for heading in headings]  # a number and its sign on one line
    head = "".join(element("th", heading, scope="col") for heading in kept)
    body = "\n".join(
        wrapped("tr", element("th", row[0], scope="row") + "".join(element("td", cell) for cell in row[1:]))
        for row in rows
    )
    inner = wrapped("table", wrapped("thead", wrapped("tr", head)) + "\n" + wrapped("tbody", body))
    classes = ["scroll", *(["text"] if text or written else []), *(["written"] if written else [])]
    return wrapped("div", inner, class_=" ".join(classes), role="region", tabindex="0", aria_label=label)


def bullets(lines: Iterable[str]) -> str:
    """A list; nothing if there are no lines."""
    items = "".join(element("li", line) for line in lines)
    return wrapped("ul", items) if items else ""
