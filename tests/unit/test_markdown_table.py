"""Tables in pages of Markdown."""

from __future__ import annotations

from sfumato.evaluation.markdown_table import markdown_table


def test_texts_stand_to_the_left_and_numbers_to_the_right() -> None:
    rows = [("a", "b", 1), ("", "c", "–")]
    lines = markdown_table(("one", "two", "n"), rows, texts=2)
    assert lines == ["| one | two | n |", "|---|---|---:|", "| a | b | 1 |", "|  | c | – |"]
    assert markdown_table(("one", "n"), [])[1] == "|---|---:|"


def test_a_bar_ends_no_cell() -> None:
    assert markdown_table(("a|b", "n"), [("x | y", 1)]) == [r"| a\|b | n |", "|---|---:|", r"| x \| y | 1 |"]
