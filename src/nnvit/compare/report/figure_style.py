"""The style of the figures, and writing them: svg and pdf for a paper, an inline svg for the report's page.

In the page, the page's own colours (light or dark) and type apply. The colours can be told apart with the common colour-vision
deficiencies, and every arm also has a marker of its own.
"""

import html
import io
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.figure import Figure

WIDTH = 7.2
"""Width of every picture, in inches."""
INK, SOFT, GRID, GROUND = "#1b1f24", "#5b6470", "#d5dae0", "#fdfdfc"
HUMAN = "#7a5c00"
ARMS = ("#0067a5", "#c4501b", "#00785c", "#8a4fa3", "#946200", "#2a7fa8", "#b8407a", "#4f5965")
"""One colour per arm, in the order of the arms; the page has a lighter one of each for dark mode."""
MARKERS = "osD^vPX*"
VARIABLES = {INK: "--ink", SOFT: "--soft", GRID: "--rule", GROUND: "--ground", HUMAN: "--human"} | {
    colour: f"--arm{i}" for i, colour in enumerate(ARMS)
}
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "svg.fonttype": "none",
    "svg.hashsalt": "nnvit",
    "pdf.fonttype": 42,
}


def styled() -> AbstractContextManager[None]:
    """Applies this style on top of matplotlib's defaults, whatever the rest of the process has set."""
    return style.context(["default", STYLE])


def save(figure: Figure, folder: Path, name: str) -> None:
    """Writes `name`.svg and `name`.pdf, on white; the same figure gives the same svg, byte for byte."""
    with styled():
        _settle(figure)
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})


def inline(figure: Figure, name: str, title: str) -> str:
    """Returns the figure as an <svg> for the page: no background, the page's colours, ids of its own.

    title: for screen readers.
    """
    buffer = io.StringIO()
    with styled():
        _settle(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<[^>]*>", lambda tag: _tag_of_the_page(tag[0], name), svg)
    opening = f'<svg role="img" aria-label="{html.escape(title)}" class="chart" '
    return re.sub(r'^<svg (?:xmlns:xlink="[^"]*" )?(?:width="[^"]*" height="[^"]*" )?', opening, svg, count=1).strip()


def _settle(figure: Figure) -> None:
    """Lays the figure out once; every file is then drawn from the same layout."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def _tag_of_the_page(tag: str, name: str) -> str:
    """Puts the figure's name before the ids of a tag, and uses the page's colours and two decimals for coordinates."""
    tag = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", tag)
    for colour, variable in VARIABLES.items():
        tag = tag.replace(colour, f"var({variable})")
    return re.sub(r"(?<=\d\.\d\d)\d+", "", tag)
