"""The comparison: audit, metrics, statistics, report. Reads files only; neither torch nor nnunetv2 is imported."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a comparison as given, and the values that they resolved to, for stats.json and the report.

    human: whether a second observer was given. nsd_tolerance_mm: of the first data set; nsd_tolerance_mm_of: of each. labels:
    name -> value or values. spacing_unit: "px" for photographs, else "mm". command: as typed, without home folders.
    """

    configuration: str = ""
    baseline: str | None = None
    metric: str = "dice"
    allow: list[str] = field(default_factory=list)
    dataset: str = ""
    datasets: list[str] = field(default_factory=list)
    folds: list[str] = field(default_factory=list)
    human: bool = False
    tubular: list[str] = field(default_factory=list)
    nsd_tolerance_mm: float | None = None
    nsd_tolerance_mm_of: dict[str, float] = field(default_factory=dict)
    hd95_rule: str = ""
    labels: dict[str, int | list[int]] = field(default_factory=dict)
    ignore_label: int | None = None
    spacing_unit: str = "mm"
    version: str = ""
    date: str = ""
    command: str = ""
