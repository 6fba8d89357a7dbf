"""The published U-Nets as configurations ([rombach2022] tables 12-15 and the released files).

All have two residual blocks per level. Attention is given by downsample factor; factors without a level are kept as
published (`semantic` and `bsr_sr` list some).

| preset | channels | attention | heads | context | parameters |
|---|---|---|---|---|---|
| `sd1` | 320·(1,2,4,4) | 4,2,1 | 8 | 768 | 859,520,964 |
| `sd1_inpainting` | 320·(1,2,4,4) | 4,2,1 | 8 | 768 | 859,535,364 |
| `sd2` | 320·(1,2,4,4) | 4,2,1 | 64 wide | 1024 | 865,910,724 |
| `sdxl` | 320·(1,2,4) | 4,2 | 64 wide | 2048 | 2,567,463,684 |
| `txt2img_1p4b` | 320·(1,2,4,4) | 4,2,1 | 8 | 1280 | 872,300,484 |
| `celeba` (also FFHQ, bedrooms) | 224·(1,2,3,4) | 8,4,2 | 32 wide | – | 274,056,163 |
| `churches` | 192·(1,2,2,4,4) | 1,2,4,8 | 8 | – | 294,966,916 |
| `cin` | 256·(1,2,4) | 4,2,1 | 32 wide | 512 | 394,984,196 |
| `cin256_v2` | 192·(1,2,3,5) | 8,4,2 | 1 | 512 | 400,920,579 |
| `bsr_sr` | 160·(1,2,2,4) | 16,8 | 32 wide | – | 113,622,563 |
| `inpainting_big` | 256·(1,2,3,4) | 8,4,2 | 8 | – | 387,245,827 |
| `layout2img` | 128·(1,2,3,4) | 8,4,2 | 32 wide | 512 | 246,277,379 |
| `semantic` | 128·(1,4,8) | middle only | 8 | – | 215,229,315 |
| `text2img256` | 192·(1,2,3,5) | 8,4,2 | 32 wide | 640 | 403,623,939 |
| `rdm768` | 448·(1,2,3,4) | 4,2,1 | 32 wide | 768 | 1,335,480,400 |
"""

from __future__ import annotations

from collections.abc import Callable

from sfumato.models.unet_config import UNetConfig


def widths(base: int, *multiples: int) -> tuple[int, ...]:
    """Return the width of every level."""
    return tuple(base * multiple for multiple in multiples)


def unet_sd1() -> UNetConfig:
    """Stable Diffusion 1.x: 64x64 latents, CLIP ViT-L/14 context."""
    return UNetConfig(4, 4, widths(320, 1, 2, 4, 4), num_heads=8, context_dim=768)


def unet_sd1_inpainting() -> UNetConfig:
    """Stable Diffusion 1.5 inpainting: a mask and the masked picture's latents are concatenated."""
    return UNetConfig(4, 4, widths(320, 1, 2, 4, 4), num_heads=8, context_dim=768, concat_channels=5)


def unet_sd2() -> UNetConfig:
    """Stable Diffusion 2.x: OpenCLIP ViT-H context, heads of 64 channels, linear projections."""
    return UNetConfig(4, 4, widths(320, 1, 2, 4, 4), head_width=64, context_dim=1024, linear_projection=True)


def unet_sdxl() -> UNetConfig:
    """Stable Diffusion XL base: three levels, depth 2 and 10, a vector of pooled text and six sizes."""
    return UNetConfig(
        4,
        4,
        widths(320, 1, 2, 4),
        attention_downsamples=(4, 2),
        head_width=64,
        transformer_depth=(1, 2, 10),
        context_dim=2048,
        linear_projection=True,
        vector_width=2816,
    )


def unet_txt2img_1p4b() -> UNetConfig:
    """Text to image on LAION with a trained text transformer, 32x32 latents."""
    return UNetConfig(4, 4, widths(320, 1, 2, 4, 4), num_heads=8, context_dim=1280)


def unet_celeba() -> UNetConfig:
    """Unconditional CelebA-HQ, FFHQ and LSUN bedrooms, 64x64 latents of VQ-f4."""
    return UNetConfig(3, 3, widths(224, 1, 2, 3, 4), attention_downsamples=(8, 4, 2), head_width=32)


def unet_churches() -> UNetConfig:
    """Unconditional LSUN churches, 32x32 latents of KL-f8."""
    return UNetConfig(
        4,
        4,
        widths(192, 1, 2, 2, 4, 4),
        attention_downsamples=(1, 2, 4, 8),
        num_heads=8,
        scale_shift_norm=True,
        resblock_updown=True,
    )


def unet_cin() -> UNetConfig:
    """Class-conditional ImageNet, 32x32 latents of VQ-f8; the class is a context of one token."""
    return UNetConfig(4, 4, widths(256, 1, 2, 4), head_width=32, context_dim=512)


def unet_cin256_v2() -> UNetConfig:
    """Class-conditional ImageNet, 64x64 latents of VQ-f4 (FID 3.60 with guidance)."""
    return UNetConfig(3, 3, widths(192, 1, 2, 3, 5), attention_downsamples=(8, 4, 2), num_heads=1, context_dim=512)


def unet_bsr_sr() -> UNetConfig:
    """Four times super-resolution: the small picture is concatenated."""
    return UNetConfig(3, 3, widths(160, 1, 2, 2, 4), attention_downsamples=(16, 8), head_width=32, concat_channels=3)


def unet_inpainting_big() -> UNetConfig:
    """Inpainting on Places: the masked picture's latents and the mask are concatenated."""
    return UNetConfig(
        3,
        3,
        widths(256, 1, 2, 3, 4),
        attention_downsamples=(8, 4, 2),
        num_heads=8,
        resblock_updown=True,
        concat_channels=4,
    )


def unet_layout2img() -> UNetConfig:
    """Layout to image on OpenImages: boxes as tokens, transformers three deep."""
    return UNetConfig(
        3,
        3,
        widths(128, 1, 2, 3, 4),
        attention_downsamples=(8, 4, 2),
        head_width=32,
        transformer_depth=3,
        context_dim=512,
    )


def unet_semantic() -> UNetConfig:
    """Semantic map to landscape: the rescaled map is concatenated; only the middle has attention."""
    return UNetConfig(3, 3, widths(128, 1, 4, 8), attention_downsamples=(32, 16, 8), num_heads=8, concat_channels=3)


def unet_text2img256() -> UNetConfig:
    """Text to image on Conceptual Captions, 64x64 latents of VQ-f4."""
    return UNetConfig(3, 3, widths(192, 1, 2, 3, 5), attention_downsamples=(8, 4, 2), head_width=32, context_dim=640)


def unet_rdm768() -> UNetConfig:
    """Retrieval-augmented diffusion at 768x768: CLIP vectors of neighbours as context."""
    return UNetConfig(16, 16, widths(448, 1, 2, 3, 4), head_width=32, context_dim=768)


UNETS: dict[str, Callable[[], UNetConfig]] = {
    "sd1": unet_sd1,
    "sd1_inpainting": unet_sd1_inpainting,
    "sd2": unet_sd2,
    "sdxl": unet_sdxl,
    "txt2img_1p4b": unet_txt2img_1p4b,
    "celeba": unet_celeba,
    "churches": unet_churches,
    "cin": unet_cin,
    "cin256_v2": unet_cin256_v2,
    "bsr_sr": unet_bsr_sr,
    "inpainting_big": unet_inpainting_big,
    "layout2img": unet_layout2img,
    "semantic": unet_semantic,
    "text2img256": unet_text2img256,
    "rdm768": unet_rdm768,
}
"""Every preset by name."""
