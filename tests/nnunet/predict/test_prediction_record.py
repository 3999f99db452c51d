"""The content of `nnvit_predict.json` for masks that several commands wrote."""

import os
from pathlib import Path

import pytest

from nnvit.errors import ConfigError
from nnvit.nnunet.predict.prediction_record import PredictionRecord


def predict(out: Path, model: str, parts: tuple[int, int], second: int) -> None:
    record = PredictionRecord(out, {"model": model}, parts)
    record.begin({"a.png": "a.jpg"})
    (out / "a.png").write_bytes(model.encode())
    record.end({})
    os.utime(record.path, (second, second))


def test_a_mask_is_the_last_models_that_wrote_it(tmp_path: Path) -> None:
    predict(tmp_path, "first", (2, 0), second=1)
    predict(tmp_path, "second", (1, 0), second=2)
    for parts in ((2, 0), (1, 0)):
        PredictionRecord(tmp_path, {"model": "second"}, parts).refuse_made_otherwise(["a.png"])
        with pytest.raises(ConfigError, match="was predicted with model second, now first"):
            PredictionRecord(tmp_path, {"model": "first"}, parts).refuse_made_otherwise(["a.png"])
