"""Weights in the library's order: right results, made anew when weights or sizes change, one picture one result."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.adapters.config import LoRAConfig
from sfumato.adapters.lora import LoRA
from sfumato.diffusion.levels import spaced_levels
from sfumato.formats.bundle import Bundle
from sfumato.nn import packed
from sfumato.nn.attention import Attention
from sfumato.nn.packed import Packs, keep_packed
from sfumato.nn.recomputed import geglu, norm_silu
from sfumato.nn.stored import Conv2d, Linear
from sfumato.pipeline import Pipeline, Settings
from tiny import tiny_bundle

FAST = Settings(steps=2, batch_size=4)
pytestmark = pytest.mark.skipif(not packed._HAS_PRODUCTS, reason="this build of torch has no packed products")


def convolution(*args: int, **options: int) -> Conv2d:
    """A convolution with fixed weights that keeps them packed."""
    torch.manual_seed(0)
    layer = Conv2d(*args, **options).to(memory_format=torch.channels_last)  # type: ignore[arg-type,call-overload]
    keep_packed(layer, wanted=True)
    return layer  # type: ignore[no-any-return]


def matrix(d_in: int, d_out: int, bias: bool = True) -> Linear:
    """A linear layer that keeps its weight packed."""
    torch.manual_seed(0)
    layer = Linear(d_in, d_out, bias=bias)
    keep_packed(layer, wanted=True)
    return layer


def plain(layer: nn.Module, x: Tensor) -> Tensor:
    """What a layer gives that keeps nothing."""
    other = copy.deepcopy(layer)
    keep_packed(other, wanted=False)
    out: Tensor = other(x)
    return out


def has_packed(layer: nn.Module) -> bool:
    """Tell whether a layer holds a packed weight now."""
    assert isinstance(layer, Packs)
    return layer.packing is not None and layer.packing._kept is not None


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "3x3": lambda: convolution(16, 32, 3, padding=1),
    "1x1": lambda: convolution(16, 32, 1, bias=False),
    "strided": lambda: convolution(16, 16, 3, stride=2, padding=1),
    "grouped": lambda: convolution(16, 32, 3, padding=2, dilation=2, groups=2),
    "matrix": lambda: matrix(256, 512),
    "matrix without bias": lambda: matrix(256, 512, bias=False),
}


@pytest.fixture(params=["kept", "proved"], autouse=True)
def use(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Take what is kept whatever its bits are, as on a processor where all are alike; or go by the bits here."""
    monkeypatch.setattr(packed, "_seen_alike", {})
    if request.param == "kept":
        monkeypatch.setattr(packed, "_gives", lambda way, wanted: True)
    return str(request.param)


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 2, 3, 8])
@pytest.mark.parametrize("name", LAYERS)
def test_results_are_those_of_the_library(name: str, rows: int, use: str) -> None:
    layer = LAYERS[name]()
    for x in (
        (torch.randn(rows, 64, 256),)
        if isinstance(layer, Linear)
        else (torch.randn(rows, 16, 8, 6), torch.randn(rows, 16, 8, 6).to(memory_format=torch.channels_last))
    ):
        wanted = plain(layer, x)
        assert torch.equal(layer(x), wanted), "the first time it is computed as ever"
        for _ in range(2):
            if use == "proved":
                assert torch.equal(layer(x), wanted)
            else:
                torch.testing.assert_close(layer(x), wanted, atol=1e-5, rtol=1e-5)
                assert has_packed(layer)


@torch.no_grad()
def test_where_bits_differ_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_gives", lambda way, wanted: False)
    layer, x = convolution(16, 16, 3, padding=1), torch.randn(6, 16, 8, 8)
    for _ in range(3):
        assert torch.equal(layer(x), plain(layer, x)) and not has_packed(layer)


@torch.no_grad()
def test_zeros_prove_nothing() -> None:
    layer, x = convolution(16, 16, 3, padding=1), torch.randn(2, 16, 8, 8)
    layer(torch.zeros_like(x))
    silent = convolution(16, 16, 3, padding=1)
    silent.weight.zero_()
    silent(x)
    assert not packed._seen_alike
    layer(x)
    assert len(packed._seen_alike) == 1


@torch.no_grad()
def test_changed_weights_and_sizes_are_noticed() -> None:
    layer, x = convolution(8, 8, 3, padding=1), torch.randn(2, 8, 4, 4)
    layer(x)
    layer.weight.mul_(2)
    torch.testing.assert_close(layer(x), plain(layer, x))
    layer.weight.data = torch.randn_like(layer.weight)
    torch.testing.assert_close(layer(x), plain(layer, x))
    layer.weight = nn.Parameter(torch.randn_like(layer.weight))
    torch.testing.assert_close(layer(x), plain(layer, x))
    layer.load_state_dict(convolution(8, 8, 3, padding=1).state_dict())
    torch.testing.assert_close(layer(x), plain(layer, x))
    for shape in ((3, 8, 4, 4), (1, 8, 6, 2)):
        other = torch.randn(shape)
        torch.testing.assert_close(layer(other), plain(layer, other))


def test_learning_large_maps_large_kernels_and_other_numbers_go_the_usual_way() -> None:
    x, layer = torch.randn(2, 8, 4, 4), convolution(8, 8, 3, padding=1)
    layer(x).sum().backward()
    assert not has_packed(layer) and layer.weight.grad is not None
    with torch.no_grad():
        layer(torch.randn(1, 8, 40, 40))
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
        copy.deepcopy(layer).double()(x.double())
        assert not has_packed(layer)
        large, small = convolution(512, 512, 3, padding=1), matrix(64, 64)
        large(torch.randn(1, 512, 1, 1))
        small(torch.randn(2, 8, 64))
        assert not has_packed(large) and not has_packed(small)
        matrix(256, 512)(torch.randn(2, 256))
        layer(x)
        assert layer.packing is not None
    keep_packed(layer, wanted=False)
    assert not has_packed(layer)


@torch.no_grad()
def test_copies_and_files_hold_no_packed_weight() -> None:
    layer = convolution(8, 8, 3, padding=1)
    layer(torch.randn(2, 8, 4, 4))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert not has_packed(other) and other.packing is not None
    assert set(layer.state_dict()) == {"weight", "bias"}


@torch.no_grad()
def test_queries_keys_and_values_are_one_product(use: str) -> None:
    torch.manual_seed(0)
    attention, tokens = Attention(256, heads=4).eval(), torch.randn(2, 16, 256)
    wanted = attention(tokens)
    keep_packed(attention, wanted=True)
    torch.testing.assert_close(attention(tokens), wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(attention(tokens), wanted, atol=1e-5, rtol=1e-5)
    assert not has_packed(attention.to_q) and (has_packed(attention) or use == "proved")
    attention.to_k.weight.mul_(2)
    changed = attention(tokens)
    assert not torch.allclose(changed, wanted, atol=1e-4)
    torch.testing.assert_close(changed, plain(attention, tokens), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_what_an_adapter_adds_is_not_passed_by() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"attention": Attention(256, heads=4).eval()})
    tokens = torch.randn(2, 16, 256)
    keep_packed(model, wanted=True)
    lora = LoRA(model, LoRAConfig(2, targets=("to_k", "to_q")), generator=torch.Generator().manual_seed(0))
    for parameter in lora.parameters():
        parameter.add_(torch.randn(parameter.shape))
    with lora.attached():
        attached = model["attention"](tokens)
    with lora.merged():
        torch.testing.assert_close(model["attention"](tokens), attached, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(model["attention"](tokens), attached, atol=1e-2)


@pytest.fixture
def bundle() -> Bundle:
    return tiny_bundle()


def test_a_pipeline_of_its_own_keeps_weights_and_a_lesson_forgets_them(bundle: Bundle, use: str) -> None:
    pipeline, middle = Pipeline(bundle), bundle.unet.mid_block.resnets[0].conv1
    before = pipeline.images(["a fox"], [0], FAST)
    assert middle.packing is not None
    bundle.keep_packed(False)
    claim = pipeline._use.claim("a lesson learns on its base")
    drawn = Pipeline(bundle, claim).images(["a fox"], [0], FAST)
    assert middle.packing is None, "the memory of a lesson counts"
    pipeline._use.release(claim)
    torch.testing.assert_close(drawn, before, atol=1e-4, rtol=1e-4)
    assert torch.equal(drawn, before) or use == "kept"
    with torch.no_grad():
        middle.weight.mul_(1.5)
    assert not torch.allclose(pipeline.images(["a fox"], [0], FAST), before, atol=1e-4)


def test_what_is_drawn_can_be_changed_and_learned_from(bundle: Bundle) -> None:
    denoise = bundle.denoiser().bind(Pipeline(bundle).context("a fox"))
    level = spaced_levels(bundle.schedule, 2)[0]
    x_t = torch.randn(1, bundle.unet.config.in_channels, 8, 8)
    with torch.no_grad():
        x_0 = denoise(x_t, level)
        x_0 += 1  # what was made in inference mode would refuse this
    x_t.requires_grad_(True)
    denoise(x_t, level).sum().backward()
    assert x_t.grad is not None and bool(x_t.grad.any())


def test_norms_and_gates_are_the_same_with_and_without_gradients() -> None:
    norm, x = nn.GroupNorm(4, 16), torch.randn(2, 16, 5, 3)
    for given in (x, x.to(memory_format=torch.channels_last)):
        with_gradient = norm_silu(norm, given.requires_grad_(True))
        with torch.no_grad():
            assert torch.equal(norm_silu(norm, given), with_gradient)
            assert torch.equal(F.silu(norm(given)), with_gradient)
    y = torch.randn(2, 7, 12)
    with torch.no_grad():
        assert torch.equal(geglu(y), geglu(y.clone().requires_grad_(True)))


@torch.no_grad()
def test_what_is_seen_of_one_kind_of_layer_says_nothing_of_another() -> None:
    x, tokens = torch.randn(2, 16, 8, 8), torch.randn(2, 64, 256)
    convolution(16, 16, 3, padding=1)(x)
    convolution(16, 16, 3, padding=1).to(memory_format=torch.contiguous_format)(x)  # type: ignore[call-overload]
    convolution(16, 16, 3, padding=1, bias=False)(x)
    matrix(256, 512)(tokens)
    matrix(256, 512, bias=False)(tokens)
    assert len(packed._seen_alike) == 5


@torch.no_grad()
def test_three_matrices_together_are_not_larger_than_one_may_be() -> None:
    wide = Attention(1024, heads=4)
    keep_packed(wide, wanted=True)
    wide(torch.randn(2, 16, 1024))
    assert not has_packed(wide), "4 MiB each"


@torch.no_grad()
def test_weights_that_are_replaced_twice_are_noticed(use: str) -> None:
    layer, x = convolution(8, 8, 3, padding=1), torch.randn(2, 8, 4, 4)
    for _ in range(2):
        layer(x)
    for _ in range(4):
        layer.half().float()
        layer.weight.data = layer.weight.data * 2
        torch.testing.assert_close(layer(x), plain(layer, x), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_weights_made_for_drawing_alone_go_the_usual_way() -> None:
    attention, tokens = Attention(256, heads=4).eval(), torch.randn(2, 16, 256)
    keep_packed(attention, wanted=True)
    with torch.inference_mode():
        attention.to_k.weight = nn.Parameter(torch.randn(256, 256), requires_grad=False)
        out = attention(tokens)
        assert torch.equal(out, attention(tokens)) and not has_packed(attention)


@torch.no_grad()
def test_a_norm_of_single_numbers_is_computed() -> None:
    norm, x = nn.GroupNorm(8, 8), torch.randn(1, 8, 1, 1)
    torch.testing.assert_close(norm_silu(norm, x), torch.zeros_like(x), atol=1e-3, rtol=0)


def test_a_network_keeps_no_more_than_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = nn.Sequential(*(Linear(400, 400, bias=False) for _ in range(3)))
    monkeypatch.setattr("sfumato.nn.packed._MOST_BYTES_OF_NETWORK", 2 * 400 * 400 * 4)
    monkeypatch.setattr("sfumato.nn.packed._gives", lambda way, wanted: way() is not None)
    monkeypatch.setattr("sfumato.nn.packed._seen_alike", {})
    keep_packed(layers, wanted=True)
    x = torch.randn(2, 8, 400)
    with torch.inference_mode():
        found = layers(x), layers(x)
    assert [has_packed(layer) for layer in layers] == [True, True, False], "first come, first served"
    first, _, last = layers
    assert first.packing is not None
    first.packing.forget()
    with torch.inference_mode():
        last(x)
    assert has_packed(last), "what is forgotten makes room"
    keep_packed(layers, wanted=False)
    with torch.inference_mode():
        assert all(torch.allclose(one, layers(x), atol=1e-5) for one in found)
