"""Contact sheets: every picture is there, at its place and in its shape."""

from __future__ import annotations

from PIL import Image

from sfumato.operations.contact_sheet import GAP, GROUND, LABEL_HEIGHT, MARGIN, Row, contact_sheet

RED, BLUE = (220, 20, 20), (20, 20, 220)


def test_pictures_lie_in_rows() -> None:
    red, blue = Image.new("RGB", (16, 16), RED), Image.new("RGB", (16, 8), BLUE)
    sheet = contact_sheet([Row("one", [red, red]), Row("two", [blue])], side=64)
    assert sheet.size == (2 * MARGIN + 2 * 64 + GAP, 2 * MARGIN + 2 * (LABEL_HEIGHT + 64) + GAP)
    first = MARGIN + LABEL_HEIGHT + 32
    second = first + 64 + GAP + LABEL_HEIGHT
    assert sheet.getpixel((MARGIN + 32, first)) == RED
    assert sheet.getpixel((MARGIN + 64 + GAP + 32, first)) == RED
    assert sheet.getpixel((MARGIN + 32, second)) == BLUE
    assert sheet.getpixel((MARGIN + 32, second - 20)) == GROUND  # a wide picture keeps its shape
    assert sheet.getpixel((MARGIN + 64 + GAP + 32, second)) == GROUND


def test_labels_are_written_and_cut() -> None:
    picture = Image.new("RGB", (16, 16), RED)
    sheet = contact_sheet([Row("a very long label " * 20, [picture])], side=64)
    label = sheet.crop((0, MARGIN, sheet.width, MARGIN + LABEL_HEIGHT))
    assert min(low for low, _ in label.getextrema()) < 100  # type: ignore[union-attr, misc]
    assert sheet.crop((sheet.width - MARGIN, 0, sheet.width, sheet.height)).getextrema() == tuple(
        (c, c) for c in GROUND
    )
