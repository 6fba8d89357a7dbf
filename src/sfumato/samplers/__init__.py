"""Samplers: from noise to latents. They know noise levels and one function, `denoise(x_t, level) -> x_0`."""

from __future__ import annotations

from sfumato.errors import ConfigError
from sfumato.runtime.suggestions import did_you_mean
from sfumato.samplers.ddim import ddim
from sfumato.samplers.ddpm import ddpm
from sfumato.samplers.dpm import dpmpp_2m, dpmpp_2m_sde
from sfumato.samplers.euler import euler, euler_ancestral
from sfumato.samplers.heun import heun
from sfumato.samplers.inpaint import inpaint, kept_latents
from sfumato.samplers.lcm import lcm
from sfumato.samplers.plms import plms
from sfumato.samplers.protocol import Draw, Sampler
from sfumato.samplers.unipc import unipc

__all__ = ["SAMPLERS", "Draw", "Sampler", "find_sampler", "inpaint", "kept_latents"]

SAMPLERS: dict[str, Sampler] = {
    "ddpm": Sampler("ddpm", "DDPM, ancestral; best with many steps", ddpm, stochastic=True),
    "ddim": Sampler("ddim", "DDIM, order 1; eta adds noise", ddim),
    "plms": Sampler("plms", "PLMS, linear multistep", plms),
    "euler": Sampler("euler", "Euler, order 1", euler),
    "euler-ancestral": Sampler("euler-ancestral", "Euler with fresh noise each step", euler_ancestral, stochastic=True),
    "heun": Sampler("heun", "Heun, order 2, two evaluations a step", heun),
    "dpm++2m": Sampler("dpm++2m", "DPM-Solver++ 2M, order 2; good from 15 steps", dpmpp_2m),
    "dpm++2m-sde": Sampler("dpm++2m-sde", "DPM-Solver++ 2M with noise", dpmpp_2m_sde, stochastic=True),
    "unipc": Sampler("unipc", "UniPC, order 3 by its corrector; good from 8 steps", unipc),
    "lcm": Sampler("lcm", "LCM, for distilled networks, 1 to 8 steps", lcm, stochastic=True),
}


def find_sampler(name: str) -> Sampler:
    """Look a sampler up by name.

    Args:
        name: One of the keys of `SAMPLERS`.

    Returns:
        The sampler.

    Raises:
        ConfigError: No such sampler; the message names the closest.
    """
    if name in SAMPLERS:
        return SAMPLERS[name]
    raise ConfigError(
        f"There is no sampler {name!r}; needed: one of the {len(SAMPLERS)} of this version.",
        field="sampler",
        hint=did_you_mean(name.lower().replace("_", "-"), SAMPLERS),
    )
