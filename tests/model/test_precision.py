import pytest
import torch

from nnvit.errors import ConfigError
from nnvit.model.precision import Precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("amx", "avx512", "name"), [(True, False, "bf16"), (False, True, "bf16"), (False, False, "fp32")]
)
def test_auto_asks_the_cpu(monkeypatch: pytest.MonkeyPatch, amx: bool, avx512: bool, name: str) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    assert Precision.choose("auto", CPU).name == name


def test_stock_is_fp32_on_the_cpu_and_fp16_on_cuda() -> None:
    assert Precision.choose("stock", CPU).name == "fp32"
    assert Precision.choose("stock", torch.device("cuda")).name == "fp16"


def test_fp16_without_a_gradient_scaler_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs a CUDA device"):
        Precision.choose("fp16", CPU)


def test_what_is_asked_for_is_what_computes() -> None:
    for name, dtype in {"bf16": torch.bfloat16, "fp32": torch.float32}.items():
        with Precision.choose(name, CPU).autocast(CPU):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
