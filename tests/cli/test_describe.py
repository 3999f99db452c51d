"""`nnvit estimate` without a data set."""

from typing import Any

import pytest
import torch

from nnvit.cli import app
from nnvit.errors import ConfigError
from nnvit.estimate import devices

TINY = [
    "model.backbone=tiny",
    "model.backbone_size=vit",
    "model.decoder_hidden_size=16",
    "model.neck_args.out_channels=16",
]


def run(*words: str) -> None:
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
