import pytest
import torch

from nnvit.errors import ConfigError
from nnvit.model import Segmenter
from nnvit.model.segmenter import _InputAdapter

STATS = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
ARCH = {
    "arch_version": 1,
    "backbone": {"name": "tiny", "size": "vit", "taps": [1, 3], "args": {}},
    "neck": {"name": "same_scale", "args": {}},
    "head": {"name": "linear", "dropout": 0.0},
    "tuning": "frozen",
}


def test_statistics_are_applied_to_three_channels() -> None:
    image = torch.rand(2, 3, 4, 5)
    expected = (image - torch.tensor(STATS["mean"]).view(3, 1, 1)) / torch.tensor(STATS["std"]).view(3, 1, 1)
    torch.testing.assert_close(_InputAdapter(3, STATS)(image), expected)
    assert torch.equal(_InputAdapter(3, None)(image), image)


def test_one_channel_is_shown_three_times() -> None:
    grey = torch.rand(1, 1, 4, 4)
    assert torch.equal(_InputAdapter(1, None)(grey), grey.repeat(1, 3, 1, 1))


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_other_channels_start_as_their_mean_and_can_be_learned(channels: int) -> None:
    adapter = _InputAdapter(channels, None)
    image = torch.rand(1, channels, 4, 4)
    torch.testing.assert_close(adapter(image), image.mean(1, keepdim=True).expand(-1, 3, -1, -1))
    assert all(p.requires_grad for p in adapter.parameters())


def test_padding_does_not_touch_images_on_the_grid() -> None:
    torch.manual_seed(0)
    network = Segmenter(3, 2, **ARCH).eval()
    image = torch.rand(1, 3, 40, 48)
    padded = torch.nn.functional.pad(image, (0, 0, 0, 8), mode="replicate")
    assert torch.equal(network(image), network(padded)[..., :40, :])


def test_a_network_of_a_newer_version_is_refused() -> None:
    with pytest.raises(ConfigError, match="newer nnvit"):
        Segmenter(3, 2, **(ARCH | {"arch_version": 99}))


def test_a_head_that_does_not_fit_the_neck_is_refused() -> None:
    head = {"name": "segformer", "decoder_hidden_size": 8, "num_encoder_blocks": 4, "dropout": 0.1}
    with pytest.raises(ConfigError, match=r"num_encoder_blocks=4 maps, but the neck gives 2"):
        Segmenter(3, 2, **(ARCH | {"head": head}))
    with pytest.raises(ConfigError, match="4 levels from 1 or 4 maps"):
        Segmenter(3, 2, **(ARCH | {"neck": {"name": "simple_pyramid", "args": {}}}))


def test_nnunets_flag_changes_nothing() -> None:
    names = [list(Segmenter(3, 2, **ARCH, deep_supervision=flag).state_dict()) for flag in (True, False)]
    assert names[0] == names[1]


def test_qkv_bias_lets_adapters_learn() -> None:
    """timm's own `_qkvb` models call F.linear on the raw weight, which bypasses adapters."""
    arch = ARCH | {
        "backbone": {"name": "dinov3", "size": "small", "taps": [1], "args": {"qkv_bias": True}},
        "tuning": "lora",
        "lora": {"r": 2, "lora_alpha": 2, "lora_dropout": 0.0, "target_modules": ["qkv"]},
    }
    network = Segmenter(3, 2, **arch)
    network(torch.rand(1, 3, 32, 32)).square().mean().backward()
    trained = {n: p for n, p in network.named_parameters() if p.requires_grad and "lora_B" in n}
    assert len(trained) == 2
    assert all(p.grad is not None and p.grad.any() for p in trained.values())


def test_auxiliary_outputs_come_as_a_list_even_where_nnunet_has_no_smaller_scale() -> None:
    """nnU-Net's deep-supervision loss takes lists; a patch so small that only the full scale is left gives a list of one."""
    parts = {
        "arch_version": 1,
        "backbone": {"name": "tiny", "size": "vit", "taps": [3], "args": {}},
        "neck": {"name": "same_scale", "args": {}},
        "head": {"name": "linear"},
        "tuning": "full",
        "deep_supervision": True,
    }
    image = torch.rand(1, 3, 33, 40)
    assert [tuple(o.shape) for o in Segmenter(3, 2, **parts, aux=[])(image)] == [(1, 2, 33, 40)]
    scaled = Segmenter(3, 2, **parts, aux=[[0.5, 0.5], [0.25, 0.5]])
    assert [tuple(o.shape[2:]) for o in scaled(image)] == [(33, 40), (16, 20), (8, 20)]
    scaled.deep_supervision = False
    assert scaled(image).shape == (1, 2, 33, 40)
    assert Segmenter(3, 2, **parts)(image).shape == (1, 2, 33, 40)


@pytest.mark.parametrize(("head", "read"), [({"name": "linear", "dropout": 0.0}, False), ({"name": "eomt"}, True)])
def test_a_final_norm_that_nothing_reads_is_not_trained(head: dict, read: bool) -> None:
    backbone = ARCH["backbone"] | {"args": {"final_norm": False}}
    network = Segmenter(3, 2, **(ARCH | {"backbone": backbone, "head": head, "tuning": "full"}))
    assert network.get_parameter("backbone.model.norm.weight").requires_grad is read
    network(torch.rand(1, 3, 32, 32)).square().mean().backward()
    ungiven = [n for n, p in network.backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert ungiven == []
