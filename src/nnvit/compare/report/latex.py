"""Tables for a paper, in LaTeX."""

from collections.abc import Sequence

_ESCAPES = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "−": "$-$", "×": r"$\times$", "±": r"$\pm$", "≥": r"$\geq$", "≤": r"$\leq$", "³": r"$^3$", "→": r"$\rightarrow$",
    "τ": r"$\tau$", "…": r"\ldots{}", "–": "--", "—": "---", "\u2009": r"\,", "\u00a0": "~",
})  # fmt: skip


def _escape(text: str) -> str:
    """Escapes any text for LaTeX; line ends become spaces. (pandas escapes ten signs, and none beyond ASCII.)"""
    return text.replace("\n", " ").translate(_ESCAPES)


def latex_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str, label: str, align: str) -> str:
    """Returns a booktabs table with everything escaped; `align` has one of l, r, c for each column."""
    lines = [" & ".join(map(_escape, row)) + r" \\" for row in (header, *rows)]
    body = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escape(caption)}}}",
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
