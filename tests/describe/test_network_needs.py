"""The table of a network's modules against real networks and real passes."""

import pytest
import torch

from nnvit.describe.network_needs import _network_parts
from nnvit.estimate.fake_training import _flop_counter
from tests.estimate.networks import FULL, IMAGE, needed, network, recipe


@pytest.mark.parametrize(
    ("source", "overrides"),
    [
        ("segformer_default", []),
        ("segformer_default", ["lora.enabled=false"]),
        ("segformer_default", FULL),
        ("segformer_detail", []),
        ("vit_default", []),
    ],
    ids=["lora", "frozen", "full", "detail", "progressive"],
)
def test_what_is_said_of_a_network_holds_for_the_real_one(source: str, overrides: list[str]) -> None:
    of = recipe(*overrides, source=source)
    said, built = needed(of), network(of)
    rows, trained = _network_parts(lambda: network(of), IMAGE)
    parts = [row for row in rows if "." not in row.name]
    assert sum(row.parameters for row in parts) == sum(p.numel() for p in built.parameters())
    assert sum(row.trainable for row in parts) == sum(p.numel() for p in built.parameters() if p.requires_grad)
    assert sum(size for _, _, size in trained) == sum(row.trainable for row in parts)
    held = [*built.parameters(), *built.buffers()]
    assert said.parameters == sum(t.numel() * t.element_size() for t in held)
    with _flop_counter() as flops, torch.no_grad():
        built.train()(torch.rand(IMAGE))
    assert said.forward_flops == flops.get_total_flops()


def test_rows_add_up_and_say_the_shapes_of_a_pass() -> None:
    of = recipe()
    rows, trained = _network_parts(lambda: network(of), IMAGE)
    built = network(of)
    parts = {row.name: row for row in rows if "." not in row.name}
    assert list(parts) == ["input", "backbone", "neck", "head"]
    assert sum(row.parameters for row in parts.values()) == sum(p.numel() for p in built.parameters())
    trainable = sum(p.numel() for p in built.parameters() if p.requires_grad)
    assert sum(row.trainable for row in parts.values()) == trainable == sum(size for _, _, size in trained)
    assert parts["backbone"].output == "4 of 2x32x4x4"  # 50 x 64 pixels, padded to 64 x 64
    assert parts["head"].output == "2x3x16x16"
    blocks = next(row for row in rows if row.name == "backbone.model.blocks")
    assert (blocks.kind, blocks.output) == ("4 x Block", "2x17x32")
    assert ("backbone.model.blocks.*.attn.qkv.lora_A.default.weight", 4, 4 * 8 * 32) in trained
