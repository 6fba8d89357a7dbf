"""Shapes and charts: the same layout as SVG and as pixels."""

from __future__ import annotations

import io
import math
import xml.etree.ElementTree as ET

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sfumato.evaluation.canvas import Canvas
from sfumato.evaluation.charts import CHOSEN, Curve, Frame, Rows, draw_curve, draw_plane, draw_rows, ticks

SVG = "{http://www.w3.org/2000/svg}"


def pixels(canvas: Canvas) -> np.ndarray:
    with Image.open(io.BytesIO(canvas.png())) as image:
        return np.asarray(image.convert("RGB"))


def test_shapes_are_in_both_drawings() -> None:
    canvas = Canvas(100, 60)
    canvas.rect(10, 10, 20, 20, "#ff0000")
    canvas.line([(50, 5), (50, 55)], "#0000ff", 2, dashed=True)
    canvas.dot((80, 30), 6, "#00ff00")
    canvas.text((2, 55), "1 < 2 & <fox>")
    canvas.picture(60, 40, 10, np.full((8, 8, 3), 7, np.uint8))
    sheet = pixels(canvas)
    assert sheet.shape == (120, 200, 3)
    assert tuple(sheet[40, 40]) == (255, 0, 0) and tuple(sheet[60, 160]) == (0, 255, 0)
    assert tuple(sheet[90, 130]) == (7, 7, 7)
    blue = (sheet[:, 100] == (0, 0, 255)).all(axis=1)
    assert 0.4 < blue[12:108].mean() < 0.8  # dashes
    root = ET.fromstring(canvas.svg())
    assert [child.tag.removeprefix(SVG) for child in root] == ["polygon", "polyline", "circle", "text", "image"]
    assert root.findtext(f"{SVG}text") == "1 < 2 & <fox>"


def test_areas_are_mixed_with_what_is_below() -> None:
    canvas = Canvas(10, 10)
    canvas.rect(0, 0, 10, 10, "#000000")
    canvas.area([(0, 0), (10, 0), (10, 10), (0, 10)], "#ffffff", 0.5)
    assert abs(int(pixels(canvas)[10, 10, 0]) - 128) <= 1


@settings(max_examples=40)
@given(st.floats(-100, 100), st.floats(0.001, 1000))
def test_ticks_are_round_and_inside(low: float, width: float) -> None:
    found = ticks(low, low + width)
    assert 1 <= len(found) <= 6
    assert all(low - 1e-6 <= value <= low + width + 1e-6 for value in found)
    if len(found) > 1:
        leading = (found[1] - found[0]) / 10 ** math.floor(math.log10(found[1] - found[0]) + 1e-9)
        assert min(abs(leading - one) for one in (1, 2, 5)) < 1e-3


def test_ticks_of_shares() -> None:
    assert ticks(-0.05, 1.05) == [0, 0.5, 1]
    assert ticks(0.012, 0.058) == [0.02, 0.03, 0.04, 0.05]


def test_a_curve_marks_the_chosen_step_where_it_lies() -> None:
    canvas, box = Canvas(200, 160), (0, 0, 200, 160)
    curve = Curve("subject", [50, 100, 150], [0.1, 0.9, 0.5], [(0.0, 0.2), (0.8, 1.0), (0.4, 0.6)], 0.3, True)
    draw_curve(canvas, box, curve, 100)
    circles = ET.fromstring(canvas.svg()).findall(f"{SVG}circle")
    assert [circle.get("fill") == CHOSEN for circle in circles] == [False, True, False]
    heights = [float(circle.get("cy", 0)) for circle in circles]
    assert heights[1] < heights[2] < heights[0]  # up is more
    texts = [text.text for text in ET.fromstring(canvas.svg()).findall(f"{SVG}text")]
    assert {"subject", "50", "100", "150", "at least 0.3"} <= set(texts)


def test_one_step_alone_can_be_drawn() -> None:
    canvas = Canvas(200, 160)
    draw_curve(canvas, (0, 0, 200, 160), Curve("subject", [50], [0.5], [(0.4, 0.6)]), 50)
    draw_plane(canvas, (0, 0, 200, 160), [(50, 0.5, 0.5)], [50], 50, ("front", "prompt", "subject"))
    assert len(ET.fromstring(canvas.svg()).findall(f"{SVG}circle")) == 2
    assert pixels(canvas).std() > 0


def test_rows_side_by_side_with_their_intervals() -> None:
    canvas, box = Canvas(180, 160), (0, 0, 180, 160)
    rows = Rows("PRES", ["rank 1", "rank 4 of blocks"], [0.2, 0.6], [(0.1, 0.3), (0.5, 0.8)], {"the truth": 0.7})
    draw_rows(canvas, box, rows)
    root = ET.fromstring(canvas.svg())
    first, second = root.findall(f"{SVG}circle")
    across, down = ([float(dot.get(key, 0)) for dot in (first, second)] for key in ("cx", "cy"))
    assert across[0] < across[1] and down[0] > down[1]
    texts = [text.text for text in root.findall(f"{SVG}text")]
    assert {"PRES", "rank 1", "rank 4 of", "blocks", "the truth"} <= set(texts)
    whiskers = [line for line in root.findall(f"{SVG}polyline") if line.get("stroke-width") == "2"]
    for line, height in zip(whiskers, down, strict=True):
        low, high = (float(point.split(",")[1]) for point in str(line.get("points")).split())
        assert low > height > high


def test_a_frame_puts_its_corners_into_the_box() -> None:
    frame = Frame((10, 20, 200, 160), (0, 1), (0, 1))
    left, low = frame.at(0, 0)
    right, high = frame.at(1, 1)
    assert 10 < left < right < 210 and 20 < high < low < 180
