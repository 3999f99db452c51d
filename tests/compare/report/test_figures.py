"""The content of the pictures, and that the page can embed them."""

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure

from nnvit.compare.report import figure_style, figures, score_figures
from nnvit.compare.report.figure_style import Picture, short
from nnvit.compare.report.figures import _ForestRow
from nnvit.compare.stats.ranks import Ranks

NAMES = ["unet", 'a <b> & "c"', "nnUNetTrainer_nnvit__nnUNetPlans_with_a_name_that_does_not_end__2d"]


def _row(name: str, estimate: float, colour: int) -> _ForestRow:
    return _ForestRow(
        name=name,
        estimate=estimate,
        low=estimate - 1,
        high=estimate + 1,
        wide=None,
        n=28,
        colour=colour,
    )


def _forest() -> Figure:
    rows = [_row(name, 1.25 - i, i) for i, name in enumerate(NAMES)]
    return figures._forest({"vessel": rows, "disc": rows}, xlabel="difference, points", better="arm", worse="unet")


def _strip() -> Figure:
    values = {name: np.linspace(0.6, 0.9, 12) - 0.01 * i for i, name in enumerate(NAMES)}
    means = dict.fromkeys(NAMES, (0.75, 0.7, 0.8))
    return score_figures._paired_strip(pd.DataFrame(values), means, ylabel="Dice", human=(0.77, 0.75, 0.79))


def _ranks() -> Figure:
    means = np.array([0.9, 0.8, 0.7])
    drawn = means + np.random.default_rng(0).normal(0, 0.1, (50, 3))
    return figures._rank_blobs(Ranks.of(means, drawn, NAMES, False))


def _pareto() -> Figure:
    costs = {name: 10.0**i for i, name in enumerate(NAMES) if i != 1}
    means = dict.fromkeys(NAMES, (0.8, 0.7, 0.9))
    return score_figures._pareto({"parameters, millions": costs, "hours": costs}, means, ylabel="Dice")


def _critical() -> Figure:
    return figures._critical_difference(
        dict(zip(NAMES, (2.4, 1.2, 2.4), strict=True)), [[NAMES[0], NAMES[2]]], 0.9, datasets=6
    )


def _picture(figure: Figure, name: str, title: str = "title") -> Picture:
    return Picture(name=name, figure=figure, title=title, caption="")


ALL = {"forest": _forest, "strip": _strip, "ranks": _ranks, "pareto": _pareto, "critical": _critical}


@pytest.mark.parametrize("name", ALL)
def test_a_picture_is_written_as_svg_and_pdf(name: str, tmp_path: Path) -> None:
    _picture(ALL[name](), name).save(tmp_path)
    assert ElementTree.parse(tmp_path / f"{name}.svg").getroot().tag.endswith("svg")
    assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_the_same_picture_gives_the_same_svg(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _picture(_forest(), name).save(tmp_path)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_what_else_draws_in_the_process_leaves_the_pictures_alone(tmp_path: Path) -> None:
    """nnU-Net's training curves set seaborn's scale of text for the whole process."""
    _picture(_forest(), "before").save(tmp_path)
    with rc_context({"font.size": 30, "axes.titlesize": 30, "xtick.labelsize": 27.5, "axes.grid": True}):
        _picture(_forest(), "after").save(tmp_path)
    assert (tmp_path / "before.svg").read_bytes() == (tmp_path / "after.svg").read_bytes()


@pytest.mark.parametrize("name", ALL)
def test_an_inlined_picture_has_text_escaped_and_a_label(name: str) -> None:
    root = ElementTree.fromstring(_named(_picture(ALL[name](), name, 'says <"this"> & that').inline()))
    assert root.get("role") == "img"
    assert root.get("aria-label") == 'says <"this"> & that'
    assert root.findall(".//{http://www.w3.org/2000/svg}text")


@pytest.mark.parametrize("name", ALL)
def test_an_inlined_picture_has_its_own_ids_and_points_at_nothing_else(name: str) -> None:
    svg = _picture(ALL[name](), name).inline()
    ids = re.findall(r'\bid="([^"]*)"', svg)
    assert len(ids) == len(set(ids))
    assert all(identifier.startswith(f"{name}-") for identifier in ids)
    targets = re.findall(r'href="([^"]*)"|url\(([^)]*)\)', svg)
    assert {(a or b).lstrip("#") for a, b in targets} <= set(ids)


@pytest.mark.parametrize("name", ALL)
def test_an_inlined_picture_takes_all_its_colours_from_the_page(name: str) -> None:
    assert not re.findall(r"#[0-9a-fA-F]{6}\b", _picture(ALL[name](), name).inline())


def test_the_forest_says_estimate_interval_and_n() -> None:
    svg = _picture(_forest(), "forest").inline()
    assert "+1.25 [+0.25, +2.25]\u2003n = 28" in svg
    assert "−0.75 [−1.75, +0.25]\u2003n = 28" in svg


def test_a_name_that_looks_like_markup_is_left_as_it_is() -> None:
    name = 'x="#0067a5" id="a" 0.12345'
    svg = _picture(figures._forest({"v": [_row(name, 1, 0)]}, xlabel="x", better="a", worse="b"), "forest").inline()
    assert name in svg.replace("&quot;", '"')


def test_the_page_and_the_figures_agree_on_the_colours_of_light() -> None:
    css = (Path(figures.__file__).parent / "page.css").read_text(encoding="utf-8")
    light = dict(re.findall(r"(--[\w]+): light-dark\((#\w+),", css))
    assert [light[f"--arm{i}"] for i in range(len(figure_style.ARMS))] == list(figure_style.ARMS)
    assert (light["--ink"], light["--soft"], light["--rule"]) == (
        figure_style.INK,
        figure_style.SOFT,
        figure_style.GRID,
    )


def test_the_pareto_front_is_the_points_that_none_beats() -> None:
    points = [(3.0, 0.9), (1.0, 0.7), (2.0, 0.6), (2.0, 0.8), (4.0, 0.9)]
    assert score_figures._pareto_front(points) == [(1.0, 0.7), (2.0, 0.8), (3.0, 0.9)]
    assert score_figures._pareto_front(points, lower_is_better=True) == [(1.0, 0.7), (2.0, 0.6)]


def test_a_long_name_keeps_both_ends() -> None:
    assert short("a_very_long_name_that_ends_in_s1", 15) == "a_very_…s_in_s1"
    assert short("short", 15) == "short"


def _named(svg: str) -> str:
    """The namespaces that are implied in HTML and needed in XML."""
    spaces = "" if "xmlns=" in svg.split(">")[0] else ' xmlns="http://www.w3.org/2000/svg"'
    spaces += "" if "xmlns:xlink" in svg.split(">")[0] else ' xmlns:xlink="http://www.w3.org/1999/xlink"'
    return svg.replace("<svg", f"<svg{spaces}", 1)
