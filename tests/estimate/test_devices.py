"""The table of devices, sizes of memory, and speeds."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from nnvit.errors import ConfigError
from nnvit.estimate import devices
from nnvit.estimate.fake_training import _flop_counter, _TensorLifetimes


def test_devices_hold_what_nvidia_smi_shows_of_them() -> None:
    """A T4 shows 15360 MiB, an A40 and an L40S 46068, an H100 81559: none of them is as many GiB as its maker's GB."""
    shown = {device.name: device.memory for device in devices.DEVICES}
    mebibytes = {"T4": 15360, "A40": 46068, "L40S": 46068, "H100": 81559}
    for name, size in mebibytes.items():
        assert shown[name] - 0.02 < size / 1024 < shown[name] + 1


def test_a_cpus_share_follows_what_was_measured_with_and_without_matrix_instructions() -> None:
    """The steps of bench/results/step.json lie within the factor that is printed with the estimate, as did a CPU with AMX."""
    without = 403 / 188
    for dtype, flops, rate, took in (
        (torch.bfloat16, 316e9, 400e9, 1.205),
        (torch.bfloat16, 504e9, 401e9, 2.062),
        (None, 316e9, 188e9, 2.053),
    ):
        said = devices.Speed(rate=rate, share=devices._cpu_share(dtype, without)).seconds(flops)
        assert took / devices.UNCERTAIN < said < took * devices.UNCERTAIN
    assert devices._cpu_share(torch.bfloat16, 10) == pytest.approx(0.26, abs=0.02)
    assert devices._cpu_share(None, 10) == devices._cpu_share(None, without)  # matrix instructions do not speed up fp32


def test_this_machines_rates_are_measured_in_both_precisions() -> None:
    cpu = torch.device("cpu")
    fp32, bf16 = devices.Speed.here(cpu, None), devices.Speed.here(cpu, torch.bfloat16)
    assert fp32.rate != bf16.rate
    assert fp32.share == devices._CPU_SHARE
    assert bf16.share in (devices._CPU_SHARE, devices._MATRIX_SHARE)


def test_a_gpu_is_timed_at_products_that_outlast_their_launch() -> None:
    """Counts, on fake tensors of a GPU, the FLOPs that are launched before the wait."""
    with FakeTensorMode(), _TensorLifetimes(), _flop_counter() as flops:
        devices._gemm_rate(torch.device("cuda"), torch.bfloat16, wanted=0)
    fastest = max(device.tflops for device in devices.DEVICES) * 1e12
    assert flops.get_total_flops() / fastest > 100 * 5e-5  # against 50 microseconds of launch and wait


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24G", 24 * 2**30),
        ("24GiB", 24 * 2**30),
        ("24 gb", 24 * 2**30),
        ("24000M", 24000 * 2**20),
        ("7.5G", 15 * 2**29),
    ],
)
def test_memory_is_read_as_nvidia_smi_writes_it(text: str, size: int) -> None:
    assert devices.parse_memory(text) == size


@pytest.mark.parametrize("text", ["24", "24T", "G", "-3G", "0G", ""])
def test_other_amounts_of_memory_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not an amount of memory; write it as nvidia-smi does: 24G"):
        devices.parse_memory(text)


def test_devices_are_found_by_the_start_of_their_name() -> None:
    assert [device.memory for device in devices.Device.named("a100")] == [40, 80]
    assert [device.name for device in devices.Device.named("RTX3090")] == ["RTX 3090"]
    with pytest.raises(ConfigError, match=r"--device B300 is not known; use one of T4, V100, .* or this"):
        devices.Device.named("B300")
