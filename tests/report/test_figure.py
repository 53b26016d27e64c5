from __future__ import annotations

import plotly.graph_objects as go

from polyrank.report.figure import COLOURS, left_out, looks, plain


def test_twelve_groups_all_look_different():
    """Seven colours: the eighth group has the first one's colour, with another dash and another symbol."""
    names = [f"method {i}" for i in range(28)]
    made = looks(names)
    assert len(set(made.values())) == len(names)
    first, eighth = made["method 0"], made[f"method {len(COLOURS)}"]
    assert first.colour == eighth.colour
    assert first.dash != eighth.dash
    assert first.symbol != eighth.symbol
    for look in made.values():
        go.Scatter(line={"color": look.colour, "dash": look.dash}, marker={"symbol": look.symbol})


def test_a_band_has_the_colour_of_its_line():
    assert looks(["a"])["a"].faint(0.5) == "rgba(0,114,178,0.5)"


def test_markup_of_users_files_is_text():
    assert plain('<a href="x">') == '&lt;a href="x"&gt;'


def test_a_caption_names_what_is_not_shown():
    assert left_out([], "no reason") == ""
    assert left_out(["a", "b"], "no data") == " Not shown: a and b (no data)."
