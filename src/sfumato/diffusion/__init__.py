"""The mathematics of diffusion: schedules, noise levels, parameterizations, the forward process, guidance."""
