"""A complete base model: what it is in memory, and its folder on disk.

The folder is that of the diffusers `StableDiffusionPipeline`, so that a base of ours opens there unchanged and a folder
made there opens here.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from sfumato.diffusion.parameterization import Prediction
from sfumato.diffusion.schedules import Schedule
from sfumato.errors import CheckpointError, UnknownFormat
from sfumato.formats import embedded
from sfumato.formats.atomic import atomic_folder
from sfumato.formats.bundle_fit import check_parts, fit_words
from sfumato.formats.detect import BUNDLE, detect, to_use_it
from sfumato.formats.diffusers_config import (
    read_autoencoder_config,
    read_scheduler,
    read_text_config,
    write_autoencoder_config,
    write_scheduler,
    write_text_config,
)
from sfumato.formats.diffusers_unet import read_sample_size, read_unet_config, write_unet_config
from sfumato.formats.network_weights import filled, for_storage, hash_of_files, hash_of_networks
from sfumato.formats.safe_io import write_safetensors
from sfumato.formats.strict_json import Json
from sfumato.models.autoencoder import Autoencoder
from sfumato.models.denoiser import Denoiser
from sfumato.models.text_encoder import ExtraRows, TextEncoder, TextFeatures
from sfumato.models.tokenizer import Tokenizer
from sfumato.models.unet import UNet
from sfumato.nn.packed import keep_packed
from sfumato.runtime.empty_weights import empty_weights
from sfumato.runtime.json_file import naming, read_json
from sfumato.runtime.precision import Holding, Precision, computed_in, computing_as_held, hold
from sfumato.runtime.suggestions import did_you_mean
from sfumato.tensors import Tokens

EMBEDDED = ("primer",)
_WORDS = "sfumato_words.json"
_OF_A_RUN = "bundle"
_FOLDERS = {"autoencoder": "vae", "unet": "unet", "text_encoder": "text_encoder"}
_HASHING = threading.Lock()
_PARTS = ("vae", "unet", "text_encoder", "tokenizer", "scheduler")
_INDEX: Json = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.30.0",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


@dataclass(frozen=True)
class Word:
    """A user's word that a base has learned.

    Attributes:
        placeholder: Such as `<fox>`.
        expansion: What it becomes in a prompt, such as `sks fox`.
        class_noun: What it is, such as `fox`.
    """

    placeholder: str
    expansion: str
    class_noun: str


@dataclass
class Bundle:
    """A base model with all its parts, ready to compute.

    Attributes:
        autoencoder: Pictures to latents and back.
        unet: The network that predicts.
        text_encoder: Token ids to features.
        tokenizer: Text to token ids.
        schedule: Noise schedule of the training.
        prediction: What the network predicts.
        name: Short name, for files that refer to this base.
        native_size: Side in pixels of the pictures that the base was trained on.
        source: Folder that it was loaded from, if any.
        words: Words that its weights have learned, beside those of its tokenizer.
        held_in: Numbers in which the networks hold the weights that take part in products. With `stored` they are those
            of the files, and everything is computed as with `fp32`, bit for bit. With `bf16` U-Net and text encoder
            compute in bf16 too, adapters are attached and never merged, and the base cannot be saved; see `hold`.
        stored_hash: `base_hash` of the files that it was loaded from, where its weights are rounded further.
    """

    autoencoder: Autoencoder
    unet: UNet
    text_encoder: TextEncoder
    tokenizer: Tokenizer
    schedule: Schedule
    prediction: Prediction
    name: str
    native_size: int
    source: Path | None = field(default=None, compare=False)
    words: tuple[Word, ...] = ()
    held_in: Holding = "fp32"
    stored_hash: str | None = field(default=None, compare=False)
    _hash: str | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def base_hash(self) -> str:
        """SHA-256 of the weights at half precision, the same for every storage precision and whatever they are held in.

        Computed at the first use; do not ask while an adapter is merged in.
        """
        if self.stored_hash is not None:
            return self.stored_hash
        with _HASHING:  # whoever has asked may change the weights next, while another thread still reads them
            if self._hash is None:
                self._hash = hash_of_networks({part: module.state_dict() for part, module in self.modules.items()})
            return self._hash

    def keep_packed(self, wanted: bool) -> None:
        """Let U-Net and autoencoder keep weights as the library reads them, or forget those; see `nn.packed`."""
        for network in (self.unet, self.autoencoder):
            keep_packed(network, wanted=wanted)

    def forget(self) -> None:
        """Forget what was made of the weights: their hash, and those that are kept as the library reads them."""
        self.keep_packed(wanted=False)
        with _HASHING:
            self._hash = None

    @property
    def use_hash(self) -> str:
        """SHA-256 of how the weights are used: schedule, prediction, networks, vocabulary, size of pictures."""
        configs = [module.config for module in (self.autoencoder, self.unet, self.text_encoder)]
        words = sorted(self.tokenizer.vocabulary.items())
        used = f"{self.schedule.config}/{self.prediction}/{configs}/{self.native_size}/{words}"
        return hashlib.sha256(used.encode()).hexdigest()

    @property
    def computes_in(self) -> Precision:
        """Numbers in which U-Net and text encoder compute."""
        return computed_in(self.held_in)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The networks by the names that files use."""
        return {"autoencoder": self.autoencoder, "unet": self.unet, "text_encoder": self.text_encoder}

    @property
    def architecture(self) -> str:
        """What catalogues call a model of this kind (ModelSpec 1.0.1); `latent-diffusion` where they have no name."""
        config = self.unet.config
        if config.channels != (320, 640, 1280, 1280):
            return "latent-diffusion"
        second = "stable-diffusion-v2-768-v" if self.prediction == "v" else "stable-diffusion-v2-512"
        return {768: "stable-diffusion-v1", 1024: second}.get(config.context_dim or 0, "latent-diffusion")

    @property
    def downsample_factor(self) -> int:
        """Pixels that a side of a picture must be a multiple of."""
        return self.autoencoder.downsample_factor * self.unet.config.downsample_factor

    def denoiser(self) -> Denoiser:
        """Join U-Net, schedule and prediction into what samplers need."""
        return Denoiser(self.unet, self.schedule, self.prediction, self.held_in)

    def encode(self, tokens: Tokens, extra_rows: ExtraRows | None = None) -> TextFeatures:
        """Encode texts with the text encoder, in the numbers that its weights are held in.

        Args:
            tokens: Token ids.
            extra_rows: Vectors of placeholders.
        """
        with computing_as_held(self.held_in, tokens.device):
            features: TextFeatures = self.text_encoder(tokens, extra_rows)
        return features

    def freeze(self) -> None:
        """Put every network into inference mode and stop its weights from learning."""
        for module in self.modules.values():
            module.eval().requires_grad_(False)


def find_bundle(name_or_path: str | Path) -> Path:
    """Find the folder of a base model.

    Args:
        name_or_path: `primer`, a folder in diffusers layout, or the folder of a run of `sfumato train denoiser`. A
            folder of the embedded base's name counts only if it holds parts of a model.

    Returns:
        The folder; of a run, the one with what it has made.

    Raises:
        CheckpointError: There is no such base, or the embedded one is not part of this installation.
        UnknownFormat: It is something else; the message says what.
        UnsafeFile: It is a pickle.
    """
    if str(name_or_path) in EMBEDDED and not _has_parts(Path(name_or_path)):
        folder = embedded.BASES / str(name_or_path)
        if not (folder / "model_index.json").is_file():
            raise CheckpointError(
                f"The embedded base '{name_or_path}' is not part of this installation.",
                field="base",
                hint="Install sfumato from a release, or name a folder in diffusers layout.",
            )
        return folder
    path = Path(name_or_path)
    if not path.exists() and not path.suffix:
        names = [*EMBEDDED, *(str(folder.parent) for folder in Path().glob("*/model_index.json"))]
        raise CheckpointError(
            f"There is no base '{name_or_path}': it is neither built in ({', '.join(EMBEDDED)}) nor a folder.",
            field="base",
            hint=f"{did_you_mean(str(name_or_path), names)} Models from a hub must be downloaded first.",
        )
    if not (path / "model_index.json").is_file() and (path / _OF_A_RUN / "model_index.json").is_file():
        path = path / _OF_A_RUN
    kind = detect(path)
    if kind != BUNDLE:
        raise UnknownFormat(
            f"'{path}' is {kind}; a base must be a folder in diffusers layout, with model_index.json in it.",
            field="base",
            hint=to_use_it(kind),
        )
    return path


def _has_parts(folder: Path) -> bool:
    """Say whether a folder holds anything of a model, whole or not."""
    return any((folder / name).exists() for name in ("model_index.json", *_PARTS))


def load_bundle(name_or_path: str | Path, *, held_in: Holding = "fp32") -> Bundle:
    """Load a base model, checking every key of its configuration and every tensor.

    Args:
        name_or_path: `primer`, or a folder in diffusers layout.
        held_in: Numbers to hold the weights in, where they shall not change. `stored` leaves them in the 16 bits in
            which most files have them: half the memory, the same results, a conversion at each use. `bf16` is for
            learning in bf16: those of U-Net and text encoder are rounded while they are read.

    Returns:
        The bundle, frozen, in inference mode, networks in channels-last layout; in float32 but for `held_in`.

    Raises:
        CheckpointError: A file is missing, truncated or damaged.
        UnknownFormat: A configuration that our networks cannot follow; key and value are named.
        MissingKeys: Tensors are absent.
        UnusedKeys: Tensors that no part takes.
        ShapeMismatch: A tensor of another shape.
        UnsafeFile: The weights are only there as a pickle.
    """
    folder = find_bundle(name_or_path)
    index = read_json(folder / "model_index.json")
    for part in _PARTS:
        if not (folder / part).is_dir():
            raise CheckpointError(f"'{folder}' has no folder '{part}'.", hint="Download or copy it again.")
    tokenizer = Tokenizer.load(folder / "tokenizer")
    configs = {part: (read_json(folder / part / "config.json"), f"{folder / part}/config.json") for part in _PARTS[:3]}
    scheduler_file = folder / "scheduler" / "scheduler_config.json"
    with naming(folder), empty_weights():
        schedule, prediction = read_scheduler(read_json(scheduler_file), str(scheduler_file))
        text_config = read_text_config(
            *configs["text_encoder"], bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id, pad_id=tokenizer.pad_id
        )
        autoencoder_config = read_autoencoder_config(*configs["vae"])
        unet_config = read_unet_config(*configs["unet"])
        check_parts(folder, unet_config, text_config, autoencoder_config)
        fit_words(folder, tokenizer, text_config)
        autoencoder, unet = Autoencoder(autoencoder_config), UNet(unet_config)
        text_encoder = TextEncoder(text_config)
        native_size = read_sample_size(*configs["unet"]) * autoencoder.downsample_factor
    stored_hash = None
    if held_in == "bf16":
        networks = {"autoencoder": autoencoder, "unet": unet, "text_encoder": text_encoder}
        stored_hash = hash_of_files({part: (folder / _FOLDERS[part], network) for part, network in networks.items()})
        hold(unet)
        hold(text_encoder)
    bundle = Bundle(
        autoencoder=filled(autoencoder, folder / "vae", as_stored=held_in == "stored"),
        unet=filled(unet, folder / "unet", as_stored=held_in == "stored"),
        text_encoder=filled(text_encoder, folder / "text_encoder", as_stored=held_in == "stored"),
        tokenizer=tokenizer,
        schedule=Schedule(schedule),
        prediction=prediction,
        name=str(index.get("_sfumato_name") or folder.resolve().name),
        native_size=native_size,
        source=folder,
        words=read_words(folder),
        held_in=held_in,
        stored_hash=stored_hash,
    )
    bundle.freeze()
    return bundle


def save_bundle(
    bundle: Bundle,
    folder: Path,
    dtype: torch.dtype = torch.float16,
    *,
    files: Mapping[str, str] | None = None,
) -> None:
    """Write a base model as a folder in diffusers layout, as a whole or not at all.

    Args:
        bundle: What to write.
        folder: Target; an existing one is replaced.
        dtype: Storage precision, float16 or float32.
        files: Further text files, such as a model card, by relative path.

    Raises:
        StorageError: The folder could not be written; the old one stays.
        UnknownFormat: The layout has no key for an option of a network.
        CheckpointError: A weight does not fit into `dtype`, or the base is held in fewer bits than its files.
    """
    if bundle.held_in == "bf16":
        raise CheckpointError(
            f"The weights of base '{bundle.name}' are held in {bundle.held_in}, rounded for learning; needed: fp32.",
            hint="Load it again without held_in.",
        )
    factor = bundle.autoencoder.downsample_factor
    vae_config = write_autoencoder_config(bundle.autoencoder.config, bundle.native_size)
    index = {**_INDEX, "_sfumato_name": bundle.name, "vae": ["diffusers", vae_config["_class_name"]]}
    contents: dict[str, Json] = {
        "model_index.json": index,
        "vae/config.json": vae_config,
        "unet/config.json": write_unet_config(bundle.unet.config, bundle.native_size // factor),
        "text_encoder/config.json": write_text_config(bundle.text_encoder.config),
        "scheduler/scheduler_config.json": write_scheduler(bundle.schedule.config, bundle.prediction),
    }
    weights: dict[str, nn.Module] = {
        "vae/diffusion_pytorch_model.safetensors": bundle.autoencoder,
        "unet/diffusion_pytorch_model.safetensors": bundle.unet,
        "text_encoder/model.safetensors": bundle.text_encoder,
    }
    with atomic_folder(folder) as stage:
        for name, content in contents.items():
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            (stage / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        bundle.tokenizer.save(stage / "tokenizer")
        for name, module in weights.items():
            write_safetensors(stage / name, {key: for_storage(t, dtype) for key, t in module.state_dict().items()})
        if bundle.words:
            words = json.dumps({"words": [asdict(word) for word in bundle.words]}, ensure_ascii=False, indent=2)
            (stage / _WORDS).write_text(words + "\n", encoding="utf-8")
        for name, text in (files or {}).items():
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            (stage / name).write_text(text, encoding="utf-8")


def read_words(folder: Path) -> tuple[Word, ...]:
    """Read the words that the base in a folder has learned; most have none.

    Raises:
        CheckpointError: Its list of words is damaged.
    """
    file = folder / _WORDS
    if not file.is_file():
        return ()
    try:
        return tuple(Word(**word) for word in read_json(file)["words"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"'{file}' is no list of words: {error!r}.", hint="Copy the base again.") from error
