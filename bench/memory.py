"""Peak memory of a training step: frozen ViT-B/16, 512 x 512, batch 2, against the same network in stock nnU-Net's trainer.

Both trainers build the network from the same plans and run their own train_step (`peak.py`); the stock one on a CPU in fp32.
Neither keeps gradients for what is frozen: its parameters ask for none in either.
"""

from estimate import BATCH, NETWORKS, PATCH, TUNING
from harness import Row, main
from peak import peak

BAR = 0.5


def rows() -> list[Row]:
    """One."""
    recipe, keys = NETWORKS["ViT-B/16, progressive"]
    ours, stock = (peak(trainer, recipe, [*keys, *TUNING["frozen"]], PATCH, BATCH) for trainer in ("nnvit", "stock"))
    share = ours["peak"] / stock["peak"]
    weights = " against ".join(f"{found['held'] / 2**20:.0f} MiB" for found in (ours, stock))
    return [
        Row(
            work="peak memory of a training step, frozen ViT-B/16 + progressive",
            reference="stock nnU-Net",
            ours=ours["peak"],
            theirs=stock["peak"],
            unit="B",
            ratio=stock["peak"] / ours["peak"],
            bar=1 / BAR,
            reached=share <= BAR,
            note=f"{share:.2f} of the stock trainer's, bar {BAR:g}; the network itself holds {weights}",
        )
    ]


if __name__ == "__main__":
    main(__file__, rows, __doc__)
