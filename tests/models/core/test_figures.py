"""What every figure is: three files, told apart in any colour vision, nothing cut."""

import csv
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from models.core import figures
from models.core.reports import embedded

# dichromats' cones in linear RGB (Vienot et al., 1999)
MISSING = {
    "protan": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
    "deutan": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
}


@figures.styled
def drawn(path, title):
    figure = figures.new(4, 3)
    axes = figure.subplots()
    for index in range(9):
        figures.line(axes, [1, 2, 3], [index, 2 * index + 1, 10 ** (index % 3)], index)
    figures.log_scale(axes)
    figures.title(figure, title)
    figures.save(figure, path, [{"x": 1, "y": 2.5}, {"x": 2, "y": None}])
    return figure


def test_a_figure_is_a_png_an_svg_and_its_data(tmp_path):
    figure = drawn(tmp_path / "a.png", "$_$ is what a class may be called")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (4 * figures.DPI, 3 * figures.DPI)
        assert "Software" not in picture.info
    assert ElementTree.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")  # noqa: S314  # ours
    with (tmp_path / "a.csv").open() as file:
        assert list(csv.reader(file)) == [["x", "y"], ["1", "2.5"], ["2", ""]]
    labels = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert all("$" not in label for label in labels)
    again = tmp_path / "again"
    again.mkdir()
    drawn(again / "a.png", "$_$ is what a class may be called")
    for name in ("a.png", "a.svg"):
        assert (again / name).read_bytes() == (tmp_path / name).read_bytes()
    assert embedded(tmp_path / "a.png").startswith("data:image/png;base64,iVBOR")


def test_a_long_title_is_inside_of_the_figure(tmp_path):
    figure = drawn(tmp_path / "a.png", "words of a title that goes on for long, " * 4)
    box = figure._suptitle.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1


def test_lines_differ_by_colour_and_by_dash_or_marker():
    looks = [
        (figures.DASHES[k % len(figures.DASHES)], figures.MARKERS[k % len(figures.MARKERS)])
        for k in range(40)
    ]
    assert len(set(looks)) == 40


@pytest.mark.parametrize("vision", [None, *MISSING])
def test_colours_are_told_apart(vision):
    """Each two differ by more than 0.1 in linear light, for those without a kind of cone too."""
    rgb = np.array([to_rgb(colour) for colour in figures.COLOURS])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = linear if vision is None else linear @ np.array(MISSING[vision]).T
    gaps = np.linalg.norm(seen[:, None] - seen[None], axis=2)
    assert gaps[~np.eye(len(gaps), dtype=bool)].min() > 0.1


def test_a_name_keeps_its_end():
    assert figures.cut("short", 10) == "short"
    assert figures.cut("a name that is long, seed 4", 12) == "a nam…seed 4"
