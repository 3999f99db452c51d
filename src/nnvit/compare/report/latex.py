"""Tables for a paper: booktabs, with everything escaped."""

from collections.abc import Sequence

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "−": "$-$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "³": r"$^3$",
    "→": r"$\rightarrow$",
    "τ": r"$\tau$",
    "…": r"\ldots{}",
    "–": "--",
    "—": "---",
    "\u2009": r"\,",
    "\u00a0": "~",
}


def escape(text: str) -> str:
    """Text that LaTeX sets as it stands, whatever it holds; line ends become spaces."""
    return "".join(_ESCAPES.get(sign, sign) for sign in " ".join(text.split("\n")))


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str, label: str, align: str) -> str:
    """A booktabs table; `align` has one of l, r, c for each column.

    The preamble needs \\usepackage{booktabs}.
    """
    lines = [" & ".join(map(escape, row)) + r" \\" for row in (header, *rows)]
    body = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(caption)}}}",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{@{{}}{align}@{{}}}}",
        r"\toprule",
        lines[0],
        r"\midrule",
        *lines[1:],
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(["% \\usepackage{booktabs}", *body, ""])
