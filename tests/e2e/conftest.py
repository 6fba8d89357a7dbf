"""A tiny random base on disk, in the layout of the real one, and a way to call the command line."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from sfumato.adapters.lora import Adapted
from sfumato.cli.main import main
from sfumato.diffusion.schedules import Schedule, ScheduleConfig
from sfumato.formats.bundle import Bundle, save_bundle
from sfumato.formats.safe_io import content_hash
from sfumato.models.autoencoder import Autoencoder, AutoencoderConfig
from sfumato.models.text_encoder import TextEncoder, TextEncoderConfig
from sfumato.models.tokenizer import Tokenizer
from sfumato.models.unet import UNet
from sfumato.models.unet_config import UNetConfig

CONTEXT_LENGTH = 32
SIDE = 32
TEXTS = ["a red fox on a blue background", "a big green robot", "two yellow stars left of a house"] * 4


def tiny_bundle() -> Bundle:
    """Make a base with every part, random but always the same."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(TEXTS, vocab_size=560, context_length=CONTEXT_LENGTH)
    text = TextEncoderConfig(
        vocab_size=tokenizer.vocab_size,
        width=32,
        layers=1,
        heads=2,
        mlp_width=64,
        context_length=CONTEXT_LENGTH,
        activation="quick_gelu",
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        pad_id=tokenizer.pad_id,
    )
    unet = UNetConfig(
        in_channels=4,
        out_channels=4,
        channels=(32, 64),
        blocks_per_level=1,
        attention_downsamples=(1, 2),
        head_width=16,
        context_dim=32,
        norm_groups=16,
    )
    autoencoder = AutoencoderConfig(
        channels=(16, 32, 32), blocks_per_level=1, latent_channels=4, mid_attention=False, norm_groups=8
    )
    bundle = Bundle(
        autoencoder=Autoencoder(autoencoder),
        unet=UNet(unet),
        text_encoder=TextEncoder(text),
        tokenizer=tokenizer,
        schedule=Schedule(ScheduleConfig(zero_terminal_snr=True)),
        prediction="v",
        name="tiny",
        native_size=SIDE,
    )
    with torch.no_grad():  # layers that start at zero would make every text and every step the same
        for weight in [*bundle.unet.parameters(), *bundle.text_encoder.parameters()]:
            weight.add_(torch.randn_like(weight), alpha=0.05)
    return bundle


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the tiny base."""
    folder = tmp_path_factory.mktemp("bases") / "tiny"
    save_bundle(tiny_bundle(), folder, torch.float32)
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with three pictures of one subject."""
    folder = tmp_path_factory.mktemp("photos")
    for number, ground in enumerate(((52, 112, 224), (252, 216, 62), (62, 164, 76))):
        picture = Image.new("RGB", (48, 48), ground)
        ImageDraw.Draw(picture).ellipse((8 + 4 * number, 10, 36 + 2 * number, 40), fill=(220, 40, 40))
        picture.save(folder / f"{number}.png")
    return folder


@dataclass(frozen=True)
class Answer:
    """What a command gave back."""

    code: int
    out: str
    err: str


Run = Callable[..., Answer]


@pytest.fixture
def sfumato(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs the command line within a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Answer:
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return run


@pytest.fixture
def base_stays(bundle: Bundle) -> Iterator[None]:
    """Check after a test that the `bundle` of its module is as it was, bit for bit, with nothing attached."""
    before = {part: copy.deepcopy(module.state_dict()) for part, module in bundle.modules.items()}
    yield
    for part, module in bundle.modules.items():
        assert content_hash(module.state_dict()) == content_hash(before[part])
        assert all(torch.equal(tensor, before[part][name]) for name, tensor in module.state_dict().items())
        assert not any(isinstance(child, Adapted) for child in module.modules())
    assert bundle.tokenizer.placeholders == {}


@pytest.fixture(scope="session")
def two_prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with as few prompts as a verdict takes, for lessons whose verdict is not what is tested."""
    file = tmp_path_factory.mktemp("prompts") / "two.txt"
    file.write_text("a {} on a red background\na big {}\n")
    return file
