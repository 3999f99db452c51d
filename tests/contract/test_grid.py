"""The grid: every backbone class x head x tuning x channels x size works or is refused at plan time, and a pairwise cover trains.

Small networks, real pixels: one patch of a CHASE_DB1 photograph.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from PIL import Image
from torch import Tensor, nn

from nnvit.errors import ConfigError
from nnvit.model import Segmenter
from nnvit.model.training import build_optimizer
from nnvit.types import TokenBackbone

from . import cells
from .cells import Cell

SIZES = [cells.EVEN, cells.ODD]
GRID = [
    Cell(family=family, neck=cells.neck_for(family, head), head=head, tuning=tuning, channels=channels)
    for family in cells.FAMILIES
    for head in cells.HEADS
    for tuning in cells.TUNINGS
    for channels in cells.CHANNELS
]
WORKING = [cell for cell in GRID if cells.fits(cell.family, cell.neck, cell.head)]
FACTORS: dict[str, list[Any]] = {
    "family": cells.FAMILIES,
    "neck": cells.NECKS,
    "head": cells.HEADS,
    "tuning": cells.TUNINGS,
    "channels": cells.CHANNELS,
    "size": SIZES,
    "supervision": cells.SUPERVISIONS,
}
LEGAL = cells.legal_cells(FACTORS, lambda cell: cells.fits(cell.family, cell.neck, cell.head, cell.supervision))
COVER = cells.pairwise_cover(LEGAL)

STEPS = 30


# --- plan time ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", cells.HEADS)
@pytest.mark.parametrize("family", cells.FAMILIES)
def test_every_network_is_planned_or_refused_with_a_reason(family: str, head: str, subtests: pytest.Subtests) -> None:
    for neck in cells.NECKS:
        for supervision in cells.SUPERVISIONS:
            cell = Cell(family=family, neck=neck, head=head, tuning="frozen", channels=3, supervision=supervision)
            with subtests.test(cell=str(cell)):
                if cells.fits(family, neck, head, supervision):
                    plan(cell)
                    continue
                with pytest.raises(ConfigError) as refusal:
                    plan(cell)
                wrong, _, advice = str(refusal.value).partition("; ")
                said = re.findall(r"(?:model|training)\.(head|neck|loss)=(\w+)", wrong)
                written = {"head": head, "neck": neck, "loss": "native" if supervision == "native" else "nnunet"}
                assert re.search(r"(model|training)\.\w+", wrong)
                assert set(said) <= set(written.items()), "it names what was written, not another part"
                assert advice


def plan(cell: Cell) -> Segmenter:
    """Builds the network as `nnvit plan` does, on the meta device."""
    with torch.device("meta"):
        return cells.build(cell)


@pytest.mark.parametrize("family", cells.FAMILIES)
def test_every_family_has_a_neck_for_every_head_unless_the_head_needs_tokens_that_it_lacks(family: str) -> None:
    without = {head for head in cells.HEADS if not cells.fits(family, cells.neck_for(family, head), head)}
    tokens = isinstance(cells.backbone(family), TokenBackbone)
    assert without == (set() if tokens else {head for head in cells.HEADS if cells.reads_tokens(head)})
    if len(set(cells.backbone(family).strides)) == 1:
        assert [neck for neck in cells.NECKS if not cells.neck_takes(neck, family)] == []


# --- every cell: forward and strict rebuild -------------------------------------------------------------------------


@pytest.mark.parametrize("cell", WORKING, ids=str)
def test_a_network_rebuilds_from_its_plans_and_takes_any_size(cell: Cell, subtests: pytest.Subtests) -> None:
    torch.manual_seed(0)
    kwargs = cells.planned(cell)
    network, twin = cells.build(cell, kwargs).eval(), cells.build(cell, kwargs).eval()
    twin.load_state_dict(network.state_dict(), strict=True)
    bare = frozen_twin(cell, network) if cell.tuning == "lora" else None
    for size in SIZES:
        image = torch.rand(1, cell.channels, *size, generator=torch.Generator().manual_seed(1))
        with subtests.test(size=size), torch.inference_mode():
            logits = network(image)
            assert (logits.shape, logits.dtype) == ((1, cells.CLASSES, *size), torch.float32)
            assert logits.isfinite().all()
            assert torch.equal(twin(image), logits)
            assert bare is None or torch.equal(bare(image), logits), "adapters begin as the identity"


def frozen_twin(cell: Cell, network: Segmenter) -> Segmenter:
    """The same weights in a network that has no adapters."""
    twin = cells.build(replace(cell, tuning="frozen")).eval()
    state = {n.replace(".base_layer.", "."): v for n, v in network.state_dict().items() if ".lora_" not in n}
    twin.load_state_dict(state, strict=True)
    return twin


# --- a pairwise cover trains ----------------------------------------------------------------------------------------


def test_the_cover_holds_every_pair_that_any_legal_cell_holds() -> None:
    held = set().union(*map(cells.pairs, COVER))
    assert held == set().union(*map(cells.pairs, LEGAL))
    assert len(COVER) <= 60


@pytest.fixture(scope="module")
def patch(shared_data: Path) -> tuple[Tensor, Tensor]:
    """Photograph (3, 61, 75) in 0..1 and vessels (1, 61, 75), from the middle of a child's left eye."""
    box = (400, 400, 400 + 75, 400 + 64)
    folder = shared_data / "chase_db1"
    photo = Image.open(folder / "imagesTr" / "Image_01L.jpg").crop(box)
    vessels = Image.open(folder / "labelsTr" / "Image_01L_1stHO.png").crop(box)
    mask = torch.from_numpy(np.array(vessels) > 0)[None]
    assert 0.05 < mask.float().mean() < 0.4
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1) / 255, mask.float()


def sample(patch: tuple[Tensor, Tensor], cell: Cell) -> tuple[Tensor, list[Tensor]]:
    """Image (1, C, H, W) and its target on every scale that the loss reads, as nnU-Net's loader gives them."""
    height, width = cell.size
    photo, mask = (part[:, :height, :width] for part in patch)
    if cell.channels != 3:
        grey = photo.mean(0, keepdim=True)
        derived = torch.cat([grey, photo, photo[1:2] - photo[:1]])
        channels = derived[: cell.channels]
        photo = (channels - channels.mean((1, 2), keepdim=True)) / channels.std((1, 2), keepdim=True)
    scales = cells.SCALES if cell.supervision == "deep" else cells.SCALES[:1]
    return photo[None], [t[None] for t in DownsampleSegForDSTransform(scales)._apply_to_segmentation(mask)]


def stock_loss(cell: Cell) -> nn.Module:
    """Dice and cross-entropy as nnU-Net's trainer builds them, without regions or ignore label."""
    settings = SimpleNamespace(
        label_manager=SimpleNamespace(has_regions=False, ignore_label=None),
        configuration_manager=SimpleNamespace(batch_dice=True),
        is_ddp=False,
        enable_deep_supervision=cell.supervision == "deep",
        _do_i_compile=lambda: False,
        _get_deep_supervision_scales=lambda: cells.SCALES,
    )
    return nnUNetTrainer._build_loss(settings)  # type: ignore[arg-type]


def steps(network: Segmenter, cell: Cell, image: Tensor, targets: list[Tensor]) -> Iterator[float]:
    """Trains, and gives each step's loss; gradients are those of that step."""
    training = cells.recipe(
        cell, "training.lr=3e-3", "training.backbone_lr=1e-3", "training.weight_decay=0", "training.warmup_epochs=0"
    ).training
    optimizer = build_optimizer(network, training)
    loss_of = network.head.native_loss(None) if cell.supervision == "native" else stock_loss(cell)
    for step in range(STEPS):
        network.set_progress(step / STEPS)
        optimizer.zero_grad(set_to_none=True)
        output = network(image)
        loss = loss_of(output, targets if isinstance(output, list) else targets[0])
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), training.grad_clip)
        optimizer.step()
        yield float(loss.detach())
    network.set_progress(1.0)


def must_reach(cell: Cell, losses: list[float], targets: list[Tensor]) -> float:
    """Returns the bound that the loss must end below. Dense heads: the best constant map's loss, so that vessels were learned.

    Of a head's own loss, three quarters of its start. Under nnU-Net's loss query heads go to the best constant map first
    and leave it after a hundred steps or more (every query begins with the same share of every class), so that only
    the way there is asked of them.
    """
    first = float(np.mean(losses[:5]))
    if cell.supervision == "native":
        return 0.75 * first
    if cells.by_queries(cell.head):
        return first - 0.1
    return min(first, *(constant_loss(cell, targets, logit) for logit in np.linspace(-4, 1, 26)))


def constant_loss(cell: Cell, targets: list[Tensor], logit: float) -> float:
    """nnU-Net's loss of one logit for vessels everywhere."""
    maps = [torch.tensor([0.0, logit]).view(1, 2, 1, 1).expand(-1, -1, *t.shape[-2:]) for t in targets]
    listed = cell.supervision == "deep"
    return float(stock_loss(cell)(maps if listed else maps[0], targets if listed else targets[0]))


def everything(network: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers, those that no checkpoint keeps too."""
    return {name: t.detach().clone() for name, t in (*network.named_parameters(), *network.named_buffers())}


def tuned(network: nn.Module, tuning: str) -> set[str]:
    """The parameters that should learn: all outside the backbone, and in it those that the tuning names."""
    inside = {"frozen": lambda name: False, "lora": lambda name: ".lora_" in name, "full": lambda name: True}[tuning]
    return {name for name, _ in network.named_parameters() if not name.startswith("backbone.") or inside(name)}


@pytest.mark.parametrize("cell", COVER, ids=str)
def test_a_network_learns_one_patch_and_only_what_is_tuned_moves(cell: Cell, patch: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(0)
    kwargs = cells.planned(cell)
    network = cells.build(cell, kwargs, deep_supervision=cell.supervision != "plain").train()
    image, targets = sample(patch, cell)
    before, expected = everything(network), tuned(network, cell.tuning)

    losses = []
    for loss in steps(network, cell, image, targets):
        losses.append(loss)
        assert {name for name, p in network.named_parameters() if p.grad is not None} == expected
    assert np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < must_reach(cell, losses, targets), losses

    moved = {name for name, value in everything(network).items() if not torch.equal(value, before[name])}
    parameters = {name for name, _ in network.named_parameters()}
    assert moved & parameters == expected  # without weight decay, a parameter without a gradient keeps its value
    assert cell.tuning == "full" or {name for name in moved if name.startswith("backbone.")} <= expected

    assert_state_round_trips(cell, kwargs, network, image)


def assert_state_round_trips(cell: Cell, kwargs: dict[str, Any], network: Segmenter, image: Tensor) -> None:
    """Saved to a file and loaded into the network that stock prediction builds: the same logits to the last bit."""
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    twin = cells.build(cell, kwargs).eval()
    twin.load_state_dict(torch.load(file, weights_only=True), strict=True)
    network.eval().deep_supervision = False
    with torch.inference_mode():
        assert torch.equal(twin(image), network(image))
