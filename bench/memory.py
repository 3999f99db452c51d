"""Peak memory of a training step: frozen ViT-B/16, 512 x 512, batch 2, against the same network in stock nnU-Net's trainer.

Both trainers build the network from the same plans and run their own train_step (`peak.py`); the stock one on a CPU in fp32.
Neither keeps gradients for what is frozen: its parameters ask for none in either. A second row shows both with glibc's malloc
told to hand back every freed block of a mebibyte or more, which leaves no holes and costs time.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from estimate import BATCH, NETWORKS, PATCH, TUNING, estimated
from harness import Row, main
from peak import peak

BAR = 0.5
THRESHOLD = "MALLOC_MMAP_THRESHOLD_"


def rows() -> list[Row]:
    """Measures with the default allocator settings, and with the threshold."""
    recipe, keys = NETWORKS["ViT-B/16, progressive"]
    keys = [*keys, *TUNING["frozen"]]
    need, _ = estimated(recipe, keys)
    in_fp32, _ = estimated(recipe, [*keys, "training.precision=fp32"])
    least = f"all tensors together are {need.tensors / in_fp32.tensors:.2f} of theirs"
    first = compared("", recipe, keys, f"bar {BAR:g}; {least}", BAR)
    with threshold(2**20):
        return [first, compared(f", {THRESHOLD}={2**20} for both", recipe, keys)]


def compared(how: str, recipe: str, keys: list[str], more: str = "", bar: float | None = None) -> Row:
    """Compares one pair of processes."""
    ours, stock = (peak(trainer, recipe, keys, PATCH, BATCH) for trainer in ("nnvit", "stock"))
    share = ours["peak"] / stock["peak"]
    held = " against ".join(f"{found['held'] / 2**20:.0f} MiB" for found in (ours, stock))
    seconds = " and ".join(f"{found['seconds']:.1f} s" for found in (ours, stock))
    note = f"{share:.2f} of the stock trainer's; the network itself holds {held}; steps take {seconds}"
    return Row(
        work=f"peak memory of a training step on the CPU, frozen ViT-B/16 + progressive{how}",
        reference="stock nnU-Net",
        ours=ours["peak"],
        theirs=stock["peak"],
        unit="B",
        ratio=stock["peak"] / ours["peak"],
        bar=None if bar is None else 1 / bar,
        reached=None if bar is None else share <= bar,
        note="; ".join(filter(None, (note, more))),
    )


@contextmanager
def threshold(size: int) -> Iterator[None]:
    """Sets the threshold for the processes that are started within the context."""
    os.environ[THRESHOLD] = str(size)
    try:
        yield
    finally:
        del os.environ[THRESHOLD]


if __name__ == "__main__":
    main(__file__, rows, __doc__)
