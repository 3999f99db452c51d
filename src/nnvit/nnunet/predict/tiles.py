"""The tiles of a sliding window in all their mirrored forms, run in batches, their logits added up in place.

C input channels, K classes. A tile has the patch's two or three axes; an image has those and, where the slices of a volume are
predicted one by one, one before them. What is held grows with the image as the image does, and never with the number of tiles.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

Place = tuple[slice | int, ...]
"""Cuts a tile out of (C, *image), or (K, *image)."""
Network = Callable[[Tensor], Tensor]
"""(B, C, *patch) -> fp32 logits (B, K, *patch)."""

CPU_VOXELS = 2**19
"""In a batch on the CPU, where larger ones bring no more speed: two tiles of 512 x 512, 32 of 128 x 128."""
CUDA_VOXELS = 2**24
CUDA_SHARE = 0.7
"""Of the memory that is free, at most, for a batch: other sizes of it leave gaps."""


@dataclass(frozen=True)
class View:
    """A tile of the image, mirrored along `axes`, counted with the channels as axis 0."""

    place: Place
    axes: tuple[int, ...]

    def mirrored(self, tile: Tensor) -> Tensor:
        """(C, *patch) there, or (K, *patch) back."""
        return tile.flip(self.axes) if self.axes else tile


def views_of(places: Sequence[Place], mirror_axes: Sequence[int] | None) -> list[View]:
    """Every tile in every mirrored form, as nnU-Net's predictor goes through them. mirror_axes: of the patch, from 0."""
    axes = [axis + 1 for axis in mirror_axes or ()]
    forms = [form for count in range(len(axes) + 1) for form in combinations(axes, count)]
    return [View(place, form) for place in places for form in forms]


class TiledSum:
    """The logits of all views, weighted by `gaussian` (*patch), each where its tile lies.

    classes: K; image: the image's axes. The sum is kept in fp32 on `device`; `mean` turns it into logits without a copy.
    """

    def __init__(self, classes: int, image: Sequence[int], gaussian: Tensor, device: torch.device) -> None:
        self.gaussian = gaussian.to(device, torch.float32)
        self.sum = torch.zeros((classes, *image), device=device)

    def add(self, view: View, logits: Tensor) -> None:
        """logits: (K, *patch) of the mirrored tile."""
        self.sum[view.place].addcmul_(view.mirrored(logits).to(self.sum.device), self.gaussian)

    def mean(self, views: Sequence[View], networks: int) -> Tensor:
        """(K, *image): the sum, of so many networks, divided by the weights that came together in each place.

        Slices are all tiled alike, so that the weights of one of them serve for all.
        """
        dims = self.gaussian.ndim
        weights = torch.zeros(self.sum.shape[-dims:], device=self.sum.device)
        for view in views:
            if view.place[1:-dims] in ((), (0,)):
                weights[view.place[-dims:]] += self.gaussian
        return self.sum.div_(weights.mul_(networks))


class Batches:
    """Runs views through a network, so many at a time; a batch that does not fit into the GPU's memory is halved.

    size: views in a batch, None for as many as the device takes, which is found out with the first view.
    """

    def __init__(self, network: Network, device: torch.device, size: int | None = None) -> None:
        self.network, self.device, self.size = network, device, size

    def run(self, image: Tensor, views: Sequence[View]) -> Iterator[tuple[View, Tensor]]:
        """image: (C, *image). Yields each view with its logits (K, *patch)."""
        if self.size is None:
            self.size = self._fitting(_filled(image, views[:1], self.device))
        done = 0
        while done < len(views):
            batch = views[done : done + _even(len(views) - done, self.size)]
            logits = self._logits(image, batch)
            if logits is not None:
                yield from zip(batch, logits, strict=True)
                done += len(batch)

    def _logits(self, image: Tensor, batch: Sequence[View]) -> Tensor | None:
        """None where the GPU's memory did not suffice; the batches are smaller from then on."""
        try:
            return self.network(_filled(image, batch, self.device))
        except (
            RuntimeError
        ):  # out of memory; cuBLAS and cuDNN say so in words of their own, and another fault comes again
            if len(batch) == 1:
                raise
        self.size = len(batch) // 2
        torch.cuda.empty_cache()
        return None

    def _fitting(self, one: Tensor) -> int:
        """As many views as fit, by the memory that one of them (1, C, *patch) takes."""
        voxels = one[0, 0].numel()
        if self.device.type != "cuda":
            return max(1, CPU_VOXELS // voxels)
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        self.network(one)
        each = torch.cuda.max_memory_allocated(self.device) - before + one.nbytes
        free = torch.cuda.mem_get_info(self.device)[0] + torch.cuda.memory_reserved(self.device) - before
        return max(1, min(int(CUDA_SHARE * free / each), CUDA_VOXELS // voxels))


def _filled(image: Tensor, batch: Sequence[View], device: torch.device) -> Tensor:
    """(B, C, *patch) on `device`."""
    shape = (len(batch), *image[batch[0].place].shape)
    tiles = torch.empty(shape, dtype=torch.float32, device=device)
    for tile, view in zip(tiles, batch, strict=True):
        tile.copy_(view.mirrored(image[view.place]))
    return tiles


def _even(left: int, size: int) -> int:
    """The size of the next batch, so that no small one is left over for the end."""
    return -(-left // -(-left // size))
