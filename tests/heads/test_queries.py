"""The semantic map of a set of masks, and the set loss on nnU-Net's targets."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from transformers import Mask2FormerImageProcessor

from nnvit.errors import ConfigError
from nnvit.heads._queries import QueryHead, _SetLoss
from nnvit.heads.mask2former import Config, Head

CLASSES, QUERIES = 3, 6


def queries(height: int = 12, width: int = 16, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = seeded()
    classes = torch.randn(2, QUERIES, CLASSES + 1, generator=generator) * scale
    return classes, torch.randn(2, QUERIES, height, width, generator=generator) * scale


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def probabilities(classes: Tensor, masks: Tensor) -> Tensor:
    """The paper's inference, written out."""
    out = torch.zeros(2, CLASSES, *masks.shape[2:])
    for query in range(QUERIES):
        for label in range(CLASSES):
            out[:, label] += classes.softmax(-1)[:, query, label, None, None] * masks[:, query].sigmoid()
    return out


def perfect(target: Tensor, confidence: float = 15.0) -> list[Tensor]:
    """The outputs of a network whose query q predicts class q where it is; the other queries predict nothing."""
    classes = torch.full((2, QUERIES, CLASSES + 1), -confidence)
    masks = torch.full((2, QUERIES, *target.shape[2:]), -confidence)
    classes[..., -1] = confidence
    for image in range(2):
        for label in target[image].unique().long().tolist():
            classes[image, label, -1], classes[image, label, label] = -confidence, confidence
            masks[image, label][target[image, 0] == label] = confidence
    return [torch.empty(2, CLASSES, *target.shape[2:]), classes, masks]


def labels(height: int = 32, width: int = 48) -> Tensor:
    """The second image lacks class 2, as nnU-Net gives it: (B, 1, H, W)."""
    target = torch.zeros(2, 1, height, width)
    target[:, :, :, width // 2 :] = 1
    target[0, :, height // 2 :, : width // 4] = 2
    return target


def semantic_logits(classes: Tensor, masks: Tensor, *, regions: bool) -> Tensor:
    head = QueryHead(CLASSES, 4.0)
    head.regions = regions
    return head.logits(classes, masks)


class TestSemanticLogits:
    def test_a_softmax_gives_the_papers_map_normalised_over_the_classes(self) -> None:
        p = probabilities(*queries())
        got = semantic_logits(*queries(), regions=False).softmax(1)
        torch.testing.assert_close(got, p / p.sum(1, keepdim=True), rtol=1e-5, atol=1e-7)

    def test_the_classes_are_transformers_semantic_segmentation(self) -> None:
        classes, masks = queries(384, 384)  # the size at which transformers looks at masks
        expected = Mask2FormerImageProcessor().post_process_semantic_segmentation(
            SimpleNamespace(class_queries_logits=classes, masks_queries_logits=masks)
        )
        assert torch.equal(semantic_logits(classes, masks, regions=False).argmax(1), torch.stack(expected))

    def test_a_sigmoid_gives_a_regions_probability(self) -> None:
        classes, masks = queries()
        classes[..., -1] += 4  # most queries say "no object", so that no sum exceeds 1
        p = probabilities(classes, masks)
        assert p.max() < 1
        torch.testing.assert_close(semantic_logits(classes, masks, regions=True).sigmoid(), p, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("regions", [False, True])
    def test_more_queries_than_one_for_a_class_still_teach(self, regions: bool) -> None:
        """A fresh network's queries all claim a bit of everything: their sum exceeds 1, and must not saturate."""
        classes, masks = torch.zeros(1, 100, 3), torch.zeros(1, 100, 4, 4, requires_grad=True)
        logits = semantic_logits(classes, masks, regions=regions)
        logits[:, 0].sum().backward()
        assert masks.grad is not None
        assert masks.grad.min() > 0

    @pytest.mark.parametrize("regions", [False, True])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("scale", [1.0, 1e4])
    def test_no_logit_and_no_gradient_is_infinite(self, regions: bool, dtype: torch.dtype, scale: float) -> None:
        classes, masks = (part.to(dtype).requires_grad_() for part in queries(scale=scale))
        with torch.autocast("cpu", torch.bfloat16):
            logits = semantic_logits(classes, masks, regions=regions)
        assert logits.dtype == torch.float32
        assert logits.isfinite().all()
        logits.square().mean().backward()
        assert classes.grad is not None
        assert masks.grad is not None
        assert classes.grad.isfinite().all()
        assert masks.grad.isfinite().all()


class TestSetLoss:
    def test_a_perfect_prediction_is_matched_whatever_its_order(self) -> None:
        """Only points on an outline, where the target itself is between 0 and 1, then have a loss."""
        logits, classes, masks = perfect(labels())
        loss, order = _SetLoss(CLASSES, 1.0, regions=False), torch.randperm(QUERIES, generator=seeded())
        for way in (slice(None), order):
            terms = loss.terms([logits, classes[:, way], masks[:, way]], [labels()])
            assert terms["loss_cross_entropy"] < 1e-6
            assert terms["loss_mask"] + terms["loss_dice"] < 2
        wrong = loss.terms([logits, classes[:, order], masks], [labels()])
        assert wrong["loss_mask"] + wrong["loss_dice"] + wrong["loss_cross_entropy"] > 10

    def test_background_is_a_class_and_absent_classes_want_no_query(self) -> None:
        masks, present = _SetLoss(CLASSES, 1.0, regions=False)._split(labels())
        assert [found.tolist() for found in present] == [[0, 1, 2], [0, 1]]
        assert [mask.sum().item() for mask in masks[1]] == [32 * 24, 32 * 24]
        assert torch.equal(masks[0].sum(0), torch.ones(32, 48))

    def test_regions_are_masks_and_empty_ones_want_no_query(self) -> None:
        target = torch.zeros(2, CLASSES, 8, 8)
        target[0, 0], target[0, 2, :4] = 1, 1
        masks, present = _SetLoss(CLASSES, 1.0, regions=True)._split(target)
        assert [found.tolist() for found in present] == [[0, 2], []]
        assert [mask.sum().item() for mask in masks[0]] == [64, 32]
        assert masks[1].shape == (0, 8, 8)

    def test_every_layer_counts_with_the_papers_weights(self) -> None:
        outputs, loss = [torch.empty(0), *queries(32, 48)], _SetLoss(CLASSES, 1.0, regions=False)
        assert len(loss.terms([*outputs, *outputs[1:], *outputs[1:]], [labels()])) == 3 * 3
        torch.manual_seed(0)
        terms = loss.terms(outputs, [labels()])
        torch.manual_seed(0)
        plain = loss.criterion(outputs[2], outputs[1], *loss._split(labels()))
        weights = {"loss_cross_entropy": 2, "loss_mask": 5, "loss_dice": 5}
        assert {name: value.item() for name, value in terms.items()} == pytest.approx(
            {name: weight * plain[name].item() for name, weight in weights.items()}
        )
        assert loss.criterion.empty_weight.tolist() == pytest.approx([1, 1, 1, 0.1])

    def test_masks_of_a_padded_image_are_compared_with_the_padded_target(self) -> None:
        """Masks cover the image as padded to the patch grid; points at equal shares of both must be the same pixels."""
        whole = torch.nn.functional.pad(labels(30, 44), (0, 12, 0, 12), mode="replicate")
        outputs = perfect(whole)
        outputs[2] = outputs[2][..., ::2, ::2]
        values = []
        for target, stride in ((whole, 2.0), (labels(30, 44), 2.0), (labels(30, 44), 1.0)):
            torch.manual_seed(0)
            values.append(_SetLoss(CLASSES, stride, regions=False)(outputs, [target]))
        assert values[0] == values[1]
        assert values[2] > 2 * values[0]  # what ignoring the padding would cost

    def test_half_precision_predictions_are_compared_in_fp32(self) -> None:
        outputs, loss = [part.half() for part in queries(32, 48)], _SetLoss(CLASSES, 1.0, regions=False)
        torch.manual_seed(0)
        expected = loss([torch.empty(0), *(part.float() for part in outputs)], [labels()])
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16):
            got = loss([torch.empty(0), *outputs], [labels()])
        assert got.dtype == torch.float32
        assert got == expected

    @pytest.mark.parametrize("regions", [False, True])
    @pytest.mark.parametrize("empty", [False, True])
    def test_every_parameter_of_the_network_takes_part(self, regions: bool, empty: bool) -> None:
        """DDP waits for each parameter's gradient; an image without any region must give one too, if only zeros."""
        torch.manual_seed(0)
        head = Head(
            [8] * 4,
            [4, 8, 16, 32],
            CLASSES,
            Config(decoder_hidden_size=32, num_queries=QUERIES, encoder_layers=1, decoder_layers=2),
        )
        head.regions = regions
        maps = [torch.randn(2, 8, 16 // 2**i, 24 // 2**i) for i in range(4)]
        layers = head.layers(maps, torch.empty(0))
        outputs = [head.logits(*layers[-1]), *(part for layer in layers for part in layer)]
        target = torch.zeros(2, CLASSES if regions else 1, 64, 96)
        if not empty:
            target[:, :, :20] = 1
        loss = head.native_loss(None)(outputs, [target])
        assert loss.isfinite()
        loss.backward()
        assert [n for n, p in head.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []

    def test_it_teaches_the_queries_a_picture(self) -> None:
        torch.manual_seed(0)
        classes, masks = (part.requires_grad_() for part in queries(32, 48, scale=0.1))
        optimizer, loss = torch.optim.Adam([classes, masks], lr=0.3), _SetLoss(CLASSES, 1.0, regions=False)
        for _ in range(40):
            optimizer.zero_grad()
            loss([masks, classes, masks], [labels()]).backward()
            optimizer.step()
        assert (semantic_logits(classes, masks, regions=False).argmax(1) == labels()[:, 0]).float().mean() > 0.98

    def test_an_ignore_label_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"ignore label 3; set training\.loss=nnunet"):
            QueryHead(CLASSES, 4.0).native_loss(3)
