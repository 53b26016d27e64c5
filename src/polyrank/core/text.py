"""Numbers, and other people's words, as a person reads them, on a terminal and on a page."""

from __future__ import annotations

import math
import re


def one_line(text: str, most: int) -> str:
    r"""What somebody else wrote, for a log: on one line, without a terminal's commands, and cut.

    >>> one_line("red\x1b[31m\nround 2: all is well", 12)
    'red [31m rou...'
    """
    cut = text if len(text) <= most else f"{text[:most]}..."
    return "".join(letter if letter.isprintable() else " " for letter in cut)


def size(number: float) -> str:
    """Bytes for people.

    >>> size(950), size(2_211_840)
    ('950 B', '2.1 MiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024 or unit == "GiB":
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    raise AssertionError  # the loop returns at GiB


UNITS = {
    **{"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12},
    **{"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40},
}


def read_size(text: str) -> int:
    """Bytes as a person writes them.

    >>> read_size("5MB"), read_size("1.5 GiB")
    (5000000, 1610612736)

    Raises:
        ValueError: it is no positive number with a unit.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]+)", text.strip())
    number = int(float(found[1]) * UNITS[found[2]]) if found and found[2] in UNITS else 0
    if number < 1:
        raise ValueError(f"found {text!r}; expected a size such as 5MB, 1.5GB or 512MiB ({', '.join(UNITS)})")
    return number


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> duration(7.4), duration(95), duration(7260)
    ('7 s', '1 min 35 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def percent(share: float | None) -> str:
    """A share of 1 as per cent with one decimal; a dash where nothing was measured.

    >>> percent(0.5678), percent(None)
    ('56.8 %', '-')
    """
    return "-" if share is None else f"{100 * share:.1f} %"


def number(value: float | None) -> str:
    """Three decimals; a dash where nothing was measured or it was not finite.

    >>> number(1.23456), number(None)
    ('1.235', '-')
    """
    return "-" if value is None or not math.isfinite(value) else f"{value:.3f}"


def lines(text: str) -> str:
    r"""What somebody else wrote, for a terminal: with its lines and tabs, and without a terminal's commands.

    >>> lines("one\n\ttwo\x1b[31m")
    'one\n\ttwo [31m'
    """
    return "".join(letter if letter.isprintable() or letter in "\n\t" else " " for letter in text)
