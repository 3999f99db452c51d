"""Plain text that reads the same on a terminal and in a file."""

from collections.abc import Iterable, Sequence


def table(rows: Iterable[Sequence[str]]) -> list[str]:
    """Returns lines with columns as wide as they need; numbers are right-aligned."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if cell.replace(",", "").isdigit() else cell.ljust(width)
            for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def short(number: float) -> str:
    """Returns three digits and a unit: `312 M`, `1.74 T`."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size * 0.9995:
            value = number / size
            return f"{value:.{max(0, 3 - len(str(int(value))))}f} {unit}"
    return f"{number:.0f} "
