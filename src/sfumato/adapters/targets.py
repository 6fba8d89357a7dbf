"""Choose the modules that an adapter changes, by patterns on their dotted names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn

from sfumato.errors import AdapterError, NoTargetMatched

ADAPTABLE = (nn.Linear, nn.Conv2d, nn.Embedding)

PRESETS: dict[str, tuple[str, ...]] = {
    "attention": ("to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj"),
    "cross-attention": ("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"),
    "cross-attention-kv": ("attn2.to_k", "attn2.to_v"),
    "feed-forward": ("ff.net.0.proj", "ff.net.2", "mlp.fc1", "mlp.fc2"),
    "blocks": ("*attentions.*", "*resnets.*", "*downsamplers.*", "*upsamplers.*"),
    "all": ("*",),
}
"""Names for common sets of patterns; within a preset it is enough that one pattern matches."""


def find_targets(model: nn.Module, patterns: Sequence[str], *, prefix: str = "") -> tuple[str, ...]:
    """List the adaptable modules whose names match.

    Call it before anything is attached or compiled: names are those of the plain model.

    Args:
        model: The model to look into.
        patterns: Names of `PRESETS`, or shell patterns (`*`, `?`, `[…]`) that must fit the whole dotted name or
            its end from a dot on, so that `to_q` finds every `….to_q`. A pattern that starts with `!` takes
            matches away again.
        prefix: What stood before each pattern (behind its `!`) when it was given, for messages.

    Returns:
        Dotted names in the model's own order.

    Raises:
        AdapterError: The model is compiled.
        NoTargetMatched: A pattern, with or without `!`, matches no Linear, Conv2d or Embedding, and the nearest names
            are told; or all patterns together choose none.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    if any("_orig_mod" in name.split(".") for name in modules) or hasattr(model, "_orig_mod"):
        raise AdapterError(
            "The model is compiled, so its modules no longer have their own names.",
            hint="Attach adapters first, compile afterwards.",
        )
    adaptable = [name for name, module in modules.items() if is_adaptable(module) and name]
    chosen: set[str] = set()
    for pattern in sorted(patterns, key=lambda one: one.startswith("!")):
        found = _matches(pattern.removeprefix("!"), adaptable)
        if not found:
            raise _no_match(pattern, prefix, list(modules), adaptable)
        chosen = chosen - found if pattern.startswith("!") else chosen | found
    if not chosen:
        given, presets = (_prefixed(names, prefix) for names in (patterns, PRESETS))
        raise NoTargetMatched(
            f"The patterns {', '.join(given) or '(none)'} choose no module.",
            field="targets",
            hint=f"Use a preset ({', '.join(presets)}) or names such as {', '.join(_prefixed(adaptable[:3], prefix))}.",
        )
    return tuple(name for name in adaptable if name in chosen)


def is_adaptable(module: nn.Module) -> bool:
    """Tell whether a module, or the module inside an adapter's wrapper, is one that adapters can change."""
    return isinstance(getattr(module, "base", module), ADAPTABLE)


def _matches(pattern: str, names: Sequence[str]) -> set[str]:
    """Return the names that a preset or pattern fits."""
    parts = PRESETS.get(pattern, (pattern,))
    return {n for n in names if any(fnmatchcase(n, part) or fnmatchcase(n, f"*.{part}") for part in parts)}


def _prefixed(patterns: Iterable[str], prefix: str) -> list[str]:
    """Write patterns as they were given: the prefix stands behind the `!`."""
    return [f"!{prefix}{one[1:]}" if one.startswith("!") else f"{prefix}{one}" for one in patterns]


def _no_match(pattern: str, prefix: str, modules: Sequence[str], adaptable: Sequence[str]) -> NoTargetMatched:
    """Build the error for a pattern without a match."""
    bare, (given,) = pattern.removeprefix("!"), _prefixed([pattern], prefix)
    others = len(_matches(bare, modules))
    parts = [name.split(".") for name in adaptable]
    known = {head: f"{head}.*" for name in parts for n in (1, 2) if (head := ".".join(name[:n])) and len(name) > n}
    known |= {tail: tail for name in parts for n in (1, 2, 3, 99) if (tail := ".".join(name[-n:]))}
    known |= {preset: preset for preset in PRESETS if _matches(preset, adaptable)}
    found = difflib.get_close_matches(bare.replace("*", "").strip("."), known, n=3, cutoff=0.5)
    near = [known[one] for one in found] or list(adaptable[:3])
    why = f"matches {others} modules, but none is" if others else "matches no"
    return NoTargetMatched(
        f"The pattern '{given}' {why} Linear, Conv2d or Embedding among the model's {len(adaptable)}.",
        field="targets",
        hint=f"Nearest names: {', '.join(_prefixed(near, prefix))}." if near else "The model has no such layers.",
    )
