"""A learned concept as one safetensors file.

Tensors: `unet.<module>.lora_A.weight` (down), `.lora_B.weight` (up), `.lora_magnitude_vector.weight` (DoRA), the same
under `text_encoder.`, with `lora_embedding_A/B` for embeddings: the names of PEFT and diffusers, whose
`load_lora_weights` opens the file. Their scale lies in `up`, so that alpha is the rank, which is what a reader assumes
that looks for no alpha. LoHa and LoKr have LyCORIS' names after the module's (`hada_w1_a`, `lokr_w1`, …), a full
difference is `diff`. New token rows are `sfumato.lora_token_rows`, those of further words `sfumato.lora_token_rows.1`
and on: diffusers refuses a file with a key that has no "lora" in it, and passes over keys that are of no part. Header:
`lora_adapter_metadata` for diffusers, `modelspec.*` for catalogues, and `sfumato.concept`, one JSON object with
everything else: words and what they stand for, base and its hash, request, lineage.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.adapters.config import PAIRED, LoRAConfig
from sfumato.adapters.kinds import KINDS
from sfumato.adapters.lora import LoRA
from sfumato.adapters.tokens import identifier_of
from sfumato.errors import CheckpointError, ConfigError, UnknownFormat, WrongBase
from sfumato.formats.bundle import Bundle
from sfumato.formats.detect import CONCEPT, detect_header
from sfumato.formats.safe_io import first_difference, read_header, read_safetensors, write_safetensors

VERSION = 1
PARTS = ("unet", "text_encoder")
HEADER = "sfumato.concept"
_ROWS = "sfumato.lora_token_rows"
_OLD_ROWS = "sfumato.token_rows"
_OF_EMBEDDINGS = {"down": "lora_embedding_A", "up": "lora_embedding_B"}
_NAMES = {name: ending for kind in KINDS.values() for name, ending in kind.FILE_NAMES.items()}
_LENGTHS = "magnitude"
_OF_BASE = ("base_name", "base_hash", "base_architecture", "base_size")
_SAID = ("placeholder", "class_noun", "expansion")


@dataclass(frozen=True)
class LearnedWord:
    """A word of a concept.

    Attributes:
        placeholder: The user's word for it, such as `<fox>`.
        class_noun: What it is, in the base's words.
        expansion: What the placeholder becomes in a prompt, such as `sks fox` or `<fox> fox`.
        rows: Its vectors, `(n, width)`; None when it has none of its own.
    """

    placeholder: str
    class_noun: str
    expansion: str
    rows: Tensor | None = None

    @property
    def said(self) -> dict[str, str]:
        """All but the vectors."""
        return {name: getattr(self, name) for name in _SAID}


@dataclass(frozen=True)
class Concept:
    """What was learned from some pictures, apart from the base it was learned on.

    Attributes:
        words: The user's words for it, the main one first; words of other subjects that were learned in the same run
            share the factors.
        factors: What was learned beside the weights by part (`unet`, `text_encoder`), as `LoRA.stored()` names it.
        configs: Of which kind it is and how the factors of each part are scaled.
        base_name: Name of the base.
        base_hash: `Bundle.base_hash` of the base.
        request: What was asked for, as plain data.
        lineage: What it came from: data hash, seed, steps, version.
        base_architecture: `Bundle.architecture` of the base.
        base_size: Side in pixels of the pictures that the base was trained on; 0 where it is not known.
        source: File that it was loaded from, if any.
    """

    words: tuple[LearnedWord, ...]
    factors: Mapping[str, Mapping[str, Tensor]]
    configs: Mapping[str, LoRAConfig]
    base_name: str
    base_hash: str
    request: Mapping[str, Any] = field(default_factory=dict)
    lineage: Mapping[str, Any] = field(default_factory=dict)
    base_architecture: str = "latent-diffusion"
    base_size: int = 0
    source: Path | None = field(default=None, compare=False)

    @property
    def main(self) -> LearnedWord:
        """The word of the first subject."""
        return self.words[0]

    def check_base(self, bundle: Bundle) -> None:
        """Refuse a base that the concept was not learned on.

        Args:
            bundle: The base to use it with.

        Raises:
            WrongBase: Its weights are others.
        """
        if bundle.base_hash != self.base_hash:
            raise WrongBase(
                f"The concept {self.main.placeholder} was learned on base '{self.base_name}' ({self.base_hash[:12]}), "
                f"this is '{bundle.name}' ({bundle.base_hash[:12]}).",
                field="concept",
                hint="Use the base it was learned on, or learn it again on this one.",
            )

    def check_words(self, others: Iterable[Concept]) -> None:
        """Refuse concepts that share a word with this one.

        Args:
            others: Concepts that are to be used together with it.

        Raises:
            ConfigError: A placeholder stands for two things, or two placeholders become the same words.
        """
        others = tuple(others)
        taken = {word.placeholder.lower() for other in others for word in other.words}
        for word in self.words:
            if word.placeholder.lower() in taken:
                raise ConfigError(
                    f"Two concepts have the placeholder '{word.placeholder}'.",
                    field="concepts",
                    hint="Learn one of them again under another word.",
                )
        said = {identifier_of(word).lower(): word.placeholder for other in others for word in other.words}
        for word in self.words:
            if (own := identifier_of(word)).lower() in said:
                raise ConfigError(
                    f"'{word.placeholder}' and '{said[own.lower()]}' of two concepts both become '{own}' in a prompt.",
                    field="concepts",
                    hint="Learn one of them again with another --word or --seed.",
                )

    def check_strength(self, strength: float) -> None:
        """Refuse a strength where there is nothing that could be stronger or weaker.

        Raises:
            ConfigError: The concept is a word alone, and the strength is not 1.
        """
        if not self.factors and strength != 1:
            raise ConfigError(
                f"The concept {self.main.placeholder} was given the strength {strength:g}, but it is a word alone, "
                "which has none.",
                field="concepts",
                hint="Leave the strength out.",
            )

    def adapters(self, bundle: Bundle) -> dict[str, LoRA]:
        """Build the adapters of the concept for a base; nothing is attached yet.

        Args:
            bundle: A base with the same layers.

        Returns:
            One adapter per part.

        Raises:
            NoTargetMatched: The base lacks a layer.
            AdapterError: A factor does not fit.
        """
        made = {}
        for part, factors in self.factors.items():
            lora = LoRA(bundle.modules[part], self.configs[part])
            lora.load_state(factors)
            made[part] = lora
        return made


def save_concept(
    concept: Concept,
    path: Path,
    *,
    live: Mapping[str, LoRA] | None = None,
    strength: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a concept, open it again and compare it with what is in memory.

    Args:
        concept: What to write.
        path: Target; ends in `.safetensors`.
        live: The adapters it was taken from; the file must hold exactly their factors.
        strength: How much of their change.
        dtype: Storage precision.

    Raises:
        ConfigError: The file name has another ending.
        StorageError: The file could not be written.
        CheckpointError: The file does not hold what it should.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ConfigError(
            f"A concept file must end in .safetensors, '{path.name}' does not.",
            field="output",
            hint=f"Use '{path.stem}.safetensors'.",
        )
    tensors = {
        f"{part}.{_file_name(name)}": _file_shape(name, factors).to(dtype)
        for part, factors in concept.factors.items()
        for name in factors
    }
    rows = _rows(concept)
    tensors |= {key: tensor.to(dtype) for key, tensor in rows.items()}
    write_safetensors(path, tensors, file_header(concept))
    expected = concept.factors if live is None else taken_from(concept, live, strength).factors
    _compare(load_concept(path), expected, rows, dtype, path)


def load_concept(path: Path) -> Concept:
    """Read a concept file.

    Args:
        path: A file that `save_concept` wrote.

    Returns:
        The concept, in float32, not bound to a base yet.

    Raises:
        UnknownFormat: It is something else, or was written by a later version.
        CheckpointError: It is missing, truncated or damaged.
        UnsafeFile: It is a pickle.
    """
    path = Path(path)
    header = read_header(path)
    if (kind := detect_header(header)) != CONCEPT:
        raise UnknownFormat(
            f"'{path}' is {kind}; a concept that sfumato learned was needed.",
            field="concept",
            hint="Give a base with --base." if "checkpoint" in kind else "Other LoRA files cannot be read yet.",
        )
    try:
        about: dict[str, Any] = json.loads(header.metadata[HEADER])
        version = int(about.pop("version"))
        if version > VERSION:
            raise UnknownFormat(
                f"'{path}' has concept format {version}; this version of sfumato reads up to {VERSION}.",
                hint="Update sfumato.",
            )
        configs = {
            part: LoRAConfig(**{**values, "targets": tuple(values["targets"])})
            for part, values in about.pop("configs").items()
        }
        factors: dict[str, dict[str, Tensor]] = {part: {} for part in configs}
        rows: dict[str, Tensor] = {}
        for key, tensor in read_safetensors(path).items():
            if key.startswith((_ROWS, _OLD_ROWS)):
                rows[key.replace(_OLD_ROWS, _ROWS)] = tensor.float().clone()
                continue
            part, name = _our_name(key)
            factors[part][name] = (tensor.flatten() if name.endswith(f".{_LENGTHS}") else tensor).float().clone()
        said = [{key: about.pop(key) for key in _SAID}, *about.pop("further", ())]
        words = tuple(LearnedWord(**one, rows=rows.get(key)) for one, key in zip(said, _row_keys(said), strict=True))
        return Concept(words, factors=factors, configs=configs, source=path, **about)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"'{path}' is a damaged concept file: {error!r}.", hint="Copy it again, or learn the concept anew."
        ) from error


def taken_from(concept: Concept, adapters: Mapping[str, LoRA], strength: float = 1.0) -> Concept:
    """Return the concept with copies of the factors of live adapters.

    Args:
        concept: Everything but the factors.
        adapters: Live adapters by part.
        strength: How much of their change the concept holds; other than 1 for kinds in `LINEAR` only.

    Returns:
        The concept; its targets are the exact module names. Of a pair of factors `up` holds the scale.
    """
    factors: dict[str, dict[str, Tensor]] = {}
    configs: dict[str, LoRAConfig] = {}
    for part, lora in adapters.items():
        config = replace(lora.config.stored, targets=lora.names)
        tensors = {name: tensor.detach().clone() for name, tensor in lora.stored().items()}
        if config.kind in PAIRED:
            scale = config.scale * strength
            tensors = {n: t * scale if n.endswith(".up") and scale != 1 else t for n, t in tensors.items()}
            config = replace(config, alpha=None, rank_stabilised=False)
        elif strength != 1:
            config = replace(config, alpha=config.numerator * strength)
        factors[part], configs[part] = tensors, config
    return replace(concept, factors=factors, configs=configs)


def file_header(concept: Concept) -> dict[str, str]:
    """Return the header of a concept's file."""
    peft: dict[str, Any] = {}
    for part, config in concept.configs.items():
        if config.kind not in PAIRED:
            continue
        names = [name.removeprefix("text_model.") for name in config.targets]
        peft |= {
            f"{part}.r": config.rank,
            f"{part}.lora_alpha": config.numerator,
            f"{part}.lora_dropout": config.dropout,
            f"{part}.use_rslora": config.rank_stabilised,
            f"{part}.use_dora": config.kind == "dora",
            f"{part}.target_modules": names,
            f"{part}.bias": "none",
            f"{part}.peft_type": "LORA",
        }
    about = {
        "version": VERSION,
        **concept.main.said,
        "further": [word.said for word in concept.words[1:]],
        "configs": {part: asdict(config) for part, config in concept.configs.items()},
        **{name: getattr(concept, name) for name in _OF_BASE},
        "request": dict(concept.request),
        "lineage": dict(concept.lineage),
    }
    return {
        HEADER: json.dumps(about, sort_keys=True),  # escaped: names of pictures need not be UTF-8
        **({"lora_adapter_metadata": json.dumps(peft, sort_keys=True)} if peft or not concept.configs else {}),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.title": concept.main.placeholder,
        "modelspec.trigger_phrase": ", ".join(word.expansion for word in concept.words),
        "modelspec.architecture": _architecture(concept),
        "modelspec.implementation": "sfumato",
        **({"modelspec.resolution": f"{concept.base_size}x{concept.base_size}"} if concept.base_size else {}),
    }


def _architecture(concept: Concept) -> str:
    """Name the kind of model and of file for catalogues."""
    kinds = {config.kind for config in concept.configs.values()}
    kind = "textual-inversion" if not kinds else "lora" if kinds <= set(PAIRED) else "-".join(sorted(kinds))
    return f"{concept.base_architecture}/{kind}"


def _our_name(key: str) -> tuple[str, str]:
    """Turn a key of the file into part and name of our factor."""
    part, _, rest = key.partition(".")
    for name, ending in (*_NAMES.items(), *_OF_EMBEDDINGS.items()):
        if part in PARTS and rest.endswith(f".{ending}"):
            return part, f"{rest.removesuffix(f'.{ending}')}.{name}"
    raise KeyError(key)


def _row_keys(words: Sequence[object]) -> list[str]:
    """Return the key of the vectors of each word: the main one's bare, the others' numbered."""
    return [_ROWS, *(f"{_ROWS}.{number}" for number in range(1, len(words)))]


def _rows(concept: Concept) -> dict[str, Tensor]:
    """Return the vectors of every word that has some, by key."""
    pairs = zip(_row_keys(concept.words), concept.words, strict=True)
    return {key: word.rows.detach() for key, word in pairs if word.rows is not None}


def _file_name(name: str) -> str:
    """Turn the name of our tensor into that of the file, without the part."""
    module, _, own = name.rpartition(".")
    ending = _OF_EMBEDDINGS[own] if own in _OF_EMBEDDINGS and _is_embedding(module) else _NAMES[own]
    return f"{module}.{ending}"


def _file_shape(name: str, factors: Mapping[str, Tensor]) -> Tensor:
    """Return a tensor as PEFT shapes it: one length per output is `(1, out, 1, 1)` for a convolution."""
    module, _, own = name.rpartition(".")
    is_kernel = own == _LENGTHS and factors[f"{module}.down"].ndim == 4
    return factors[name].view(1, -1, 1, 1) if is_kernel else factors[name]


def _is_embedding(module: str) -> bool:
    """Tell whether a module of a bundle is a table of embeddings."""
    return module.rpartition(".")[2] in ("token_embedding", "position_embedding", "class_embedding")


def _compare(
    read: Concept,
    expected: Mapping[str, Mapping[str, Tensor]],
    rows: Mapping[str, Tensor],
    dtype: torch.dtype,
    path: Path,
) -> None:
    """Compare what was read back with what is in memory, bit for bit at the stored precision."""
    wanted = {f"{part}.{name}": tensor for part, state in expected.items() for name, tensor in state.items()}
    found = {f"{part}.{name}": tensor for part, state in read.factors.items() for name, tensor in state.items()}
    wanted |= rows
    found |= _rows(read)
    name = first_difference(wanted, found, lambda tensor: tensor.to(dtype).float())
    if name is not None:
        raise CheckpointError(
            f"'{path}' was written but does not hold what was learned: '{name}' differs.",
            hint="Save it again; if this repeats, the disk or the memory is failing.",
        )
