"""sfumato: a workbench for latent diffusion."""

__version__ = "0.1.0"
