from __future__ import annotations

from polyrank.report.html import bullets, table


def test_cells_and_headings_are_escaped():
    made = table("<x>", ("a <b>", "c"), [("<i>", "1 & 2")])
    assert 'aria-label="&lt;x&gt;"' in made
    assert '<th scope="col">a &lt;b&gt;</th>' in made
    assert '<tr><th scope="row">&lt;i&gt;</th><td>1 &amp; 2</td></tr>' in made


def test_a_number_stays_with_its_sign():
    assert "to 50\u00a0%" in table("x", ("rounds to 50 %",), [])


def test_no_lines_are_no_list():
    assert bullets([]) == ""
    assert bullets(["<a>"]) == "<ul><li>&lt;a&gt;</li></ul>"
