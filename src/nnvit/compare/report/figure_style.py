"""The style of the figures, and writing them: svg and pdf for a paper, an inline svg for the report's page.

In the page, the page's own colours (light or dark) and type apply. The colours can be told apart with the common colour-vision
deficiencies, and every arm also has a marker of its own.
"""

import html
import io
import re
from dataclasses import dataclass
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
MEAN_EDGE: dict[str, Any] = {"markeredgecolor": GROUND, "markeredgewidth": 1}
"""The edge of the marker of a mean."""
VARIABLES = {INK: "--ink", SOFT: "--soft", GRID: "--rule", GROUND: "--ground", HUMAN: "--human"} | {
    colour: f"--arm{i}" for i, colour in enumerate(ARMS)
}
STYLE: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), SOFT),
    **dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width", "grid.linewidth"), 0.6),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **dict.fromkeys(("font.size", "axes.titlesize"), 8.5),
    "font.family": "DejaVu Sans",
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "figure.facecolor": "white",
    "svg.fonttype": "none",
    "svg.hashsalt": "nnvit",
    "pdf.fonttype": 42,
}
STYLED = style.context(["default", STYLE])
"""Decorates functions that draw: this style on top of matplotlib's defaults, whatever the rest of the process has set."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure with its caption; `title` is for screen readers."""

    name: str
    figure: Figure
    title: str
    caption: str

    @STYLED
    def save(self, folder: Path) -> None:
        """Writes `name`.svg and `name`.pdf, on white; the same figure gives the same svg, byte for byte."""
        self._settle()
        self.figure.savefig(folder / f"{self.name}.svg", metadata={"Date": None})
        self.figure.savefig(folder / f"{self.name}.pdf", metadata={"CreationDate": None})

    @STYLED
    def inline(self) -> str:
        """Returns the figure as an <svg> for the page: no background, the page's colours, ids of its own."""
        buffer = io.StringIO()
        self._settle()
        self.figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
        svg = buffer.getvalue()
        svg = svg[svg.index("<svg") :]
        svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
        svg = re.sub(r"<[^>]*>", lambda tag: _tag_of_the_page(tag[0], self.name), svg)
        opening = f'<svg role="img" aria-label="{html.escape(self.title)}" class="chart" '
        size = r'^<svg (?:xmlns:xlink="[^"]*" )?(?:width="[^"]*" height="[^"]*" )?'
        return re.sub(size, opening, svg, count=1).strip()

    def _settle(self) -> None:
        """Lays the figure out once; every file is then drawn from the same layout."""
        if self.figure.get_layout_engine() is not None:
            self.figure.draw_without_rendering()
            self.figure.set_layout_engine("none")


def _tag_of_the_page(tag: str, name: str) -> str:
    """Puts the figure's name before the ids of a tag, and uses the page's colours and two decimals for coordinates."""
    tag = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", tag)
    for colour, variable in VARIABLES.items():
        tag = tag.replace(colour, f"var({variable})")
    return re.sub(r"(?<=\d\.\d\d)\d+", "", tag)


def short(name: str, longest: int = 34) -> str:
    """Shortens a long name to its two ends with an ellipsis between; ends differ more often than middles."""
    if len(name) <= longest:
        return name
    head = (longest - 1) // 2
    return f"{name[:head]}…{name[len(name) - (longest - 1 - head) :]}"
