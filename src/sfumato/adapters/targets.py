"""Choose the modules that an adapter changes, by patterns on their dotted names."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
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


def find_targets(model: nn.Module, patterns: Sequence[str]) -> tuple[str, ...]:
    """List the adaptable modules whose names match.

    Call it before anything is attached or compiled: names are those of the plain model.

    Args:
        model: The model to look into.
        patterns: Names of `PRESETS`, or shell patterns (`*`, `?`, `[…]`) that must fit the whole dotted name or
            its end from a dot on, so that `to_q` finds every `….to_q`. A pattern that starts with `!` takes
            matches away again.

    Returns:
        Dotted names in the model's own order.

    Raises:
        AdapterError: The model is compiled.
        NoTargetMatched: A pattern matches no Linear, Conv2d or Embedding; the nearest names are told.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    if any("_orig_mod" in name.split(".") for name in modules) or hasattr(model, "_orig_mod"):
        raise AdapterError(
            "The model is compiled, so its modules no longer have their own names.",
            hint="Attach adapters first, compile afterwards.",
        )
    adaptable = [name for name, module in modules.items() if is_adaptable(module) and name]
    chosen: set[str] = set()
    for pattern in (p for p in patterns if not p.startswith("!")):
        found = _matches(pattern, adaptable)
        if not found:
            raise _no_match(pattern, list(modules), adaptable)
        chosen |= found
    for pattern in (p[1:] for p in patterns if p.startswith("!")):
        chosen -= _matches(pattern, adaptable)
    if not chosen:
        raise NoTargetMatched(
            f"The patterns {', '.join(patterns) or '(none)'} choose no module.",
            field="targets",
            hint=f"Use a preset ({', '.join(PRESETS)}) or names such as {', '.join(adaptable[:3])}.",
        )
    return tuple(name for name in adaptable if name in chosen)


def is_adaptable(module: nn.Module) -> bool:
    """Tell whether a module, or the module inside an adapter's wrapper, is one that adapters can change."""
    return isinstance(getattr(module, "base", module), ADAPTABLE)


def _matches(pattern: str, names: Sequence[str]) -> set[str]:
    """Return the names that a preset or pattern fits."""
    parts = PRESETS.get(pattern, (pattern,))
    return {n for n in names if any(fnmatchcase(n, part) or fnmatchcase(n, f"*.{part}") for part in parts)}


def _no_match(pattern: str, modules: Sequence[str], adaptable: Sequence[str]) -> NoTargetMatched:
    """Build the error for a pattern without a match."""
    others = len(_matches(pattern, modules))
    tails = dict.fromkeys(".".join(name.split(".")[-n:]) for name in adaptable for n in (1, 2, 3, 99))
    wanted = pattern.replace("*", "").strip(".")
    presets = [preset for preset in PRESETS if _matches(preset, adaptable)]
    near = difflib.get_close_matches(wanted, [*tails, *presets], n=3, cutoff=0.5) or list(adaptable[:3])
    why = f"matches {others} modules, but none is" if others else "matches no"
    return NoTargetMatched(
        f"The pattern '{pattern}' {why} Linear, Conv2d or Embedding among the model's {len(adaptable)}.",
        field="targets",
        hint=f"Nearest names: {', '.join(near)}." if near else "The model has no such layers.",
    )
