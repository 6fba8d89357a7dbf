"""What a sampler is: a generator of steps over noise levels that knows nothing but a denoise function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor

from sfumato.diffusion.noise_level import Denoise, Level
from sfumato.errors import ConfigError
from sfumato.events import Step

Draw = Callable[[int], Tensor]
"""`draw(step)` gives the standard normal noise of one step, shaped like the latents."""

FIXED_ARGUMENTS = ("denoise", "x_t", "levels", "draw")


@dataclass(frozen=True)
class Sampler:
    """One sampler of the catalogue.

    Attributes:
        name: Its name for users.
        title: One line for lists and forms.
        run: The generator function behind it.
        stochastic: Whether it draws noise in its steps with the default options.
    """

    name: str
    title: str
    run: Callable[..., Iterator[Step]]
    stochastic: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """Names and default values of the options that this sampler takes."""
        parameters = inspect.signature(self.run).parameters
        return {name: p.default for name, p in parameters.items() if name not in FIXED_ARGUMENTS}

    def __call__(
        self, denoise: Denoise, x_t: Tensor, levels: Sequence[Level], *, draw: Draw, **options: Any
    ) -> Iterator[Step]:
        """Start a run; nothing is computed before the first step is asked for.

        The levels may start anywhere (picture-to-picture: noise the picture to `levels[0]`) and may end before the
        clean level (a second network then goes on).

        Args:
            denoise: `(x_t, level) -> x_0`; never called at the clean level.
            x_t: Noisy latents at `levels[0]`, `(b, c, h, w)`; not changed.
            levels: At least two, each less noisy than the one before; alpha of the first may be 0.
            draw: Noise of a step; only called by stochastic samplers.
            **options: Those of this sampler, see `options`.

        Returns:
            An iterator over `len(levels) - 1` steps; closing it cancels the run.

        Raises:
            ConfigError: The levels do not fall, or an option is unknown or out of range.
        """
        check_levels(levels)
        unknown = sorted(set(options) - set(self.options))
        if unknown:
            known = ", ".join(self.options) or "none"
            raise ConfigError(
                f"Sampler {self.name} has no option {', '.join(unknown)}; it takes: {known}.", field=unknown[0]
            )
        return self.run(denoise, x_t, levels, draw=draw, **options)


def check_levels(levels: Sequence[Level]) -> None:
    """Refuse levels that cannot be sampled along.

    Args:
        levels: The levels of a run.

    Raises:
        ConfigError: Fewer than two, or noise that does not fall.
    """
    if len(levels) < 2:
        raise ConfigError(f"{len(levels)} noise levels given; needed: at least 2, a start and an end.", field="levels")
    for i, (level, next_level) in enumerate(pairwise(levels)):
        if not level.log_snr < next_level.log_snr:
            raise ConfigError(
                f"levels[{i}] has log SNR {level.log_snr:.4g} and levels[{i + 1}] has {next_level.log_snr:.4g}; "
                "needed: each level less noisy than the one before.",
                field="levels",
            )


def check_share(name: str, value: float) -> None:
    """Refuse an option that is not in [0, 1].

    Args:
        name: Name of the option.
        value: Its value.

    Raises:
        ConfigError: The value is out of range.
    """
    if not 0 <= value <= 1:
        raise ConfigError(f"{name} is {value}; needed: 0 to 1.", field=name)
