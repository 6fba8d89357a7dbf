"""The mathematics of diffusion: schedules, noise levels, parameterizations, the forward process, guidance.

What keys such as [ho2020] stand for is in docs/sources.md.
"""
