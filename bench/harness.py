"""The parts that benches share: timing two contestants in turn, the speed of matrix products, memory of a child process, rows.

A bench is a script with `rows() -> list[Row]`; `main(__file__, rows)` prints them and writes results/<script>.json.
`python bench/table.py` runs all of them and makes the table and the picture.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

RESULTS = Path(__file__).parent / "results"
CPU = torch.device("cpu")
BF16_FAST = 4


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison. ours, theirs: medians in `unit`; ratio: of the pairs, above 1 where ours is better.

    bar: the ratio that was asked for, None where none was; reached: whether it is; agreement: how far the two results agree;
    note: what a reader of the figure has to know, such as the bound that the machine sets; bf16: whether the bar is meant for
    machines on which matrix products in bf16 are at least BF16_FAST times as fast as in fp32.
    """

    work: str
    reference: str
    ours: float
    theirs: float
    unit: str
    ratio: float
    bar: float | None = None
    reached: bool | None = None
    agreement: str = ""
    note: str = ""
    bf16: bool = False

    def line(self) -> str:
        """Returns the row as text for the console."""
        verdict = {None: "", True: "reached", False: "NOT reached"}[self.reached]
        bar = f"  bar {self.bar:g}  {verdict}" if self.bar is not None else ""
        more = "".join(f"\n    {text}" for text in (self.agreement, self.note) if text)
        times = f"ours {self.ours:.4g} {self.unit}, {self.reference} {self.theirs:.4g} {self.unit}"
        return f"{self.work}: {times}, {self.ratio:.2f}x{bar}{more}"


def alternately(
    ours: Callable[[], object], theirs: Callable[[], object], repeats: int = 7, warm: bool = True
) -> tuple[float, float, float]:
    """Seconds of each (medians) and the median of the ratios theirs / ours, pair by pair; with `warm`, a first pair warms up.

    Who begins changes from pair to pair.
    """
    pairs = [_pair(ours, theirs, turned=bool(i % 2)) for i in range(repeats + warm)][warm:]
    mine, other = zip(*pairs, strict=True)
    return statistics.median(mine), statistics.median(other), statistics.median(b / a for a, b in pairs)


def _pair(ours: Callable[[], object], theirs: Callable[[], object], turned: bool) -> tuple[float, float]:
    if turned:
        other = seconds(theirs)
        return seconds(ours), other
    return seconds(ours), seconds(theirs)


def seconds(run: Callable[[], object]) -> float:
    """Returns the seconds of one call."""
    synchronise()
    start = time.perf_counter()
    run()
    synchronise()
    return time.perf_counter() - start


def timed(work: str, reference: str, times: tuple[float, float, float], bar: float | None = None, **words: Any) -> Row:
    """A row of `alternately`'s times."""
    ours, theirs, ratio = times
    figures = {"ours": ours, "theirs": theirs, "ratio": ratio}
    return Row(
        work=work,
        reference=reference,
        unit="s",
        bar=bar,
        reached=None if bar is None else ratio >= bar,
        **figures,
        **words,
    )


def device() -> torch.device:
    """CUDA if there is a GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronise() -> None:
    """Waits until the GPU has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def gemm_peak(dtype: torch.dtype, size: int = 4096, repeats: int = 5) -> float:
    """FLOP/s of a large square matrix product, measured now: the most that this machine can do."""
    a, b = (torch.randn(size, size, device=device(), dtype=dtype) for _ in range(2))
    times = [seconds(lambda: a @ b) for _ in range(repeats + 1)][1:]
    return 2 * size**3 / min(times)


def bound(flops: float, dtype: torch.dtype | None, theirs: float) -> str:
    """Returns, in words, how many times faster than `theirs` seconds all work would be as matrix products at their peak."""
    peak = gemm_peak(dtype or torch.float32)
    name = str(dtype or torch.float32).removeprefix("torch.")
    return f"bound {theirs * peak / flops:.1f}x: {flops / 1e9:.0f} GFLOP at {peak / 1e9:.0f} GFLOP/s in {name}"


def shares(run: Callable[[], object], most: int = 6) -> str:
    """The operations that take most of a call's time."""
    cuda = torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as seen:
        run()
        synchronise()
    kind = "self_device_time_total" if cuda else "self_cpu_time_total"
    times = {event.key.removeprefix("aten::"): getattr(event, kind) for event in seen.key_averages()}
    total = sum(times.values())
    largest = sorted(times, key=lambda name: -times[name])[:most]
    return ", ".join(f"{name.replace('_scaled_dot_product_', '')[:32]} {times[name] / total:.0%}" for name in largest)


def machine() -> dict[str, object]:
    """Processor, cores, GPU, and the GEMM peaks measured now."""
    torch.set_num_threads(os.cpu_count() or 1)
    peaks = {name: gemm_peak(dtype) for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))}
    return {
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "gemm_gflops": {name: round(peak / 1e9) for name, peak in peaks.items()},
        "bf16_over_fp32": round(peaks["bf16"] / peaks["fp32"], 2),
        "load_before": os.getloadavg()[0],
        "commit": commit(),
    }


def cpu() -> str:
    """The processor's own name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())


def commit() -> str:
    """Returns the commit of this checkout, marked if the sources differ from it."""
    git = ["git", "-C", str(RESULTS.parents[1])]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    changes = [*git, "status", "--porcelain", "--", "src", "bench/*.py"]
    dirty = subprocess.run(changes, capture_output=True, text=True, check=False).stdout.strip()
    return head + ("-dirty" if dirty else "")


def main(script: str, rows: Callable[[], Sequence[Row]], doc: str | None) -> None:
    """Runs a bench, prints its rows as they are, and writes results/<script>.json with the machine."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    here = machine()
    print(
        f"{here['cores']} cores, {here['cpu']}, GEMM {here['gemm_gflops']} GFLOP/s, {here['commit'][:12]}", flush=True
    )  # type: ignore[index]
    found = list(rows())
    for row in found:
        print(row.line(), flush=True)
    RESULTS.mkdir(exist_ok=True)
    content = {"machine": here, "rows": [asdict(row) for row in found]}
    (RESULTS / f"{Path(script).stem}.json").write_text(json.dumps(content, indent=2) + "\n")
