"""The estimate of a training against real tensors; the table of devices; the command."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from nnvit import estimate
from nnvit.errors import ConfigError
from nnvit.estimate import devices, fake_training
from nnvit.estimate.flops import flop_counter
from nnvit.estimate.tensor_lifetimes import TensorLifetimes
from nnvit.model.optimizer import build_optimizer
from nnvit.model.training_step import prepare_for_training
from nnvit.recipe import loading
from nnvit.recipe.schema import Recipe

TINY = [
    "model.backbone=tiny",
    "model.backbone_size=vit",
    "model.decoder_hidden_size=16",
    "model.neck_args.out_channels=16",
]
TUNING = {
    "frozen": ["lora.enabled=false"],
    "lora": ["lora.enabled=true"],
    "full": ["lora.enabled=false", "model.freeze_backbone=false"],
}


def recipe(*overrides: str) -> Recipe:
    return loading.load_recipe(["segformer_default"], [*TINY, *overrides])


def job(*overrides: str, side: int = 64, batch: int = 2) -> estimate.Job:
    return estimate.job_of(recipe(*overrides), channels=3, classes=2, patch=(side, side), batch=batch)


# --- tensors -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tuning", TUNING)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["fp32", "bf16"])
def test_what_is_alive_at_most_is_what_a_real_training_has_alive(tuning: str, dtype: torch.dtype | None) -> None:
    """The same steps on real tensors, whose storages really come and go."""
    of = job(*TUNING[tuning])
    said = estimate.need(of, dtype)
    network = of.build()
    prepare_for_training(network, of.training, dtype)
    optimizer = build_optimizer(network.train(), of.training)
    with TensorLifetimes() as lifetimes:
        fake_training._run_steps(network, of, dtype, optimizer, None)
    held = [*network.parameters(), *network.buffers()]
    assert said.parameters == sum(tensor.numel() * tensor.element_size() for tensor in held)
    assert said.tensors == pytest.approx(said.parameters + lifetimes.peak()[1], rel=0.02)


def test_parts_come_to_the_whole_and_follow_the_recipe() -> None:
    plain = estimate.need(job(), torch.bfloat16)
    assert plain.on_cpu == plain.tensors + int(fake_training.CPU_ALLOWANCE * plain.activations)
    averaged = estimate.need(job("training.ema=0.9"), torch.bfloat16)
    assert averaged.optimizer > plain.optimizer
    stateless = estimate.need(job("training.optimizer=sgd", "training.momentum=0"), torch.bfloat16)
    assert stateless.optimizer == 0
    medium, large = (estimate.need(job(side=side), torch.bfloat16) for side in (128, 256))
    assert 3 * medium.activations < large.activations < 5 * medium.activations
    assert large.parameters == plain.parameters
    assert large.step_flops > 3 * medium.step_flops
    assert plain.step_flops > plain.forward_flops


def test_frozen_weights_take_half_and_checkpointing_less_than_keeping() -> None:
    frozen = job("lora.enabled=false")
    halved, plain = estimate.need(frozen, torch.bfloat16), estimate.need(frozen, None)
    assert halved.parameters < plain.parameters
    other = estimate.need(frozen, torch.float16)  # the trainer keeps them in either kind of 16 bits
    assert (other.parameters, other.tensors) == (halved.parameters, halved.tensors)
    full = job(*TUNING["full"], side=128)
    fewer = replace(full, training=replace(full.training, grad_checkpointing=True))
    assert estimate.need(fewer, None).tensors < estimate.need(full, None).tensors


# --- devices -------------------------------------------------------------------------------------------------------------


def test_devices_hold_what_nvidia_smi_shows_of_them() -> None:
    """A T4 shows 15360 MiB, an A40 and an L40S 46068, an H100 81559: none of them is as many GiB as its maker's GB."""
    shown = {device.name: device.memory for device in devices.DEVICES}
    mebibytes = {"T4": 15360, "A40": 46068, "L40S": 46068, "H100": 81559}
    for name, size in mebibytes.items():
        assert shown[name] - 0.02 < size / 1024 < shown[name] + 1


def test_a_cpus_share_follows_what_was_measured_with_and_without_matrix_instructions() -> None:
    """The steps of bench/results/step.json lie within the factor that is said beside the estimate, as did a CPU with AMX."""
    without = 403 / 188
    for dtype, flops, rate, took in (
        (torch.bfloat16, 316e9, 400e9, 1.205),
        (torch.bfloat16, 504e9, 401e9, 2.062),
        (None, 316e9, 188e9, 2.053),
    ):
        said = devices.Speed(rate=rate, share=devices._cpu_share(dtype, without)).seconds(flops)
        assert took / devices.UNCERTAIN < said < took * devices.UNCERTAIN
    assert devices._cpu_share(torch.bfloat16, 10) == pytest.approx(0.26, abs=0.02)
    assert devices._cpu_share(None, 10) == devices._cpu_share(
        None, without
    )  # matrix instructions are of no use to fp32


def test_this_machines_rates_are_measured_in_both_precisions() -> None:
    cpu = torch.device("cpu")
    fp32, bf16 = devices.speed_here(cpu, None), devices.speed_here(cpu, torch.bfloat16)
    assert fp32.rate != bf16.rate
    assert fp32.share == devices._CPU_SHARE
    assert bf16.share in (devices._CPU_SHARE, devices._MATRIX_SHARE)


def test_a_gpu_is_timed_at_products_that_outlast_their_launch() -> None:
    """On fake tensors of a GPU: what is launched before it is waited for."""
    with FakeTensorMode(), TensorLifetimes(), flop_counter() as flops:
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
    assert [device.memory for device in devices.devices_named("a100")] == [40, 80]
    assert [device.name for device in devices.devices_named("RTX3090")] == ["RTX 3090"]
    with pytest.raises(ConfigError, match=r"--device B300 is not known; use one of T4, V100, .* or this"):
        devices.devices_named("B300")


def test_the_chosen_batch_fits_and_one_more_does_not() -> None:
    of = job("lora.enabled=false")

    def taken(batch: int) -> int:
        return estimate.need(replace(of, batch=batch), torch.bfloat16).on_gpu

    budget = (taken(6) + taken(7)) // 2
    batch, said = estimate.largest_batch(of, budget, torch.bfloat16)
    assert batch == 6
    assert said == taken(6) <= budget < taken(7)
    assert estimate.largest_batch(of, taken(2) - 1, torch.bfloat16) == (0, taken(2))


# --- the command ---------------------------------------------------------------------------------------------------------


def run(*words: str) -> None:
    from nnvit.cli import app

    app(["estimate", *words], standalone_mode=False)


def test_the_command_says_memory_by_parts_time_and_what_fits(capsys: Any) -> None:
    run("segformer_default", *TINY, "lora.enabled=false", "--patch", "64", "96", "--batch", "3", "--device", "V100")
    printed = capsys.readouterr().out
    assert "a step on 3 patches of 64 x 96, 3 channels" in printed
    (row,) = [line for line in printed.splitlines() if line.startswith("V100")]
    assert " fits " in row
    assert " fp16 " in row  # which has no bf16
    assert "35% of the published dense rate, an assumption" in printed
    assert "peak memory" not in printed
    run("segformer_default", *TINY, "--patch", "64", "64", "--device", "this")
    printed = capsys.readouterr().out
    parts = [float(line.split()[-2]) for line in printed.splitlines() if line.endswith(" GiB")]
    assert len(parts) == 5
    assert "an iteration" in printed
    assert "V100" not in printed


def test_fp16_is_estimated_for_gpus_on_a_machine_that_cannot_train_in_it(
    capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # as on a laptop
    words = ["segformer_default", *TINY, "training.precision=fp16", "--patch", "64", "64"]
    run(*words)
    printed = capsys.readouterr().out
    assert "this machine is left out: training.precision=fp16 needs a CUDA device" in printed
    assert printed.count(" fp16 ") == len(devices.DEVICES)
    assert "peak memory on this machine" not in printed
    with pytest.raises(ConfigError, match=r"training.precision=fp16 needs a CUDA device"):
        run(*words, "--device", "this")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["unet"], r"model.head=plans is the base plans' own network: name a data set with -d DATASET"),
        (["segformer_default", "-d", "101", "--batch", "4"], r"-d 101 defines channels, .* leave --batch out"),
        (["segformer_default", *TINY, "--device", "Z9"], r"--device Z9 is not known"),
    ],
)
def test_what_does_not_go_together_is_refused(words: list[str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        run(*words)
