"""sfumato: a workbench for latent diffusion."""

__all__ = ["__version__"]

__version__ = "0.1.0"
