"""The parts of a latent diffusion model: autoencoders, U-Net, text encoder, tokenizer, and the eyes that judge them.

What keys such as [ho2020] stand for is in docs/sources.md.
"""
