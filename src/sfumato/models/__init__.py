"""The parts of a latent diffusion model: autoencoders, U-Net, text encoder, tokenizer, and the eyes that judge them.

Sources, by the keys that docstrings here and in `sfumato.nn` use:

    [dhariwal2021]  Diffusion Models Beat GANs on Image Synthesis, arXiv 2105.05233
    [esser2021]     Taming Transformers for High-Resolution Image Synthesis, arXiv 2012.09841
    [gal2022]       An Image is Worth One Word (Textual Inversion), arXiv 2208.01618
    [ho2022]        Classifier-Free Diffusion Guidance, arXiv 2207.12598
    [isola2017]     Image-to-Image Translation with Conditional Adversarial Networks, arXiv 1611.07004
    [kingma2014]    Auto-Encoding Variational Bayes, arXiv 1312.6114
    [lavin2016]     Fast Algorithms for Convolutional Neural Networks, arXiv 1509.09308
    [oord2017]      Neural Discrete Representation Learning, arXiv 1711.00937
    [radford2021]   Learning Transferable Visual Models From Natural Language Supervision, arXiv 2103.00020
    [rombach2022]   High-Resolution Image Synthesis with Latent Diffusion Models, arXiv 2112.10752
    [sennrich2016]  Neural Machine Translation of Rare Words with Subword Units, arXiv 1508.07909
    [shazeer2020]   GLU Variants Improve Transformer, arXiv 2002.05202
    [tan2019]       EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, arXiv 1905.11946
    [vaswani2017]   Attention Is All You Need, arXiv 1706.03762
    [winograd1980]  Arithmetic Complexity of Computations, SIAM 1980
    [yuksekgonul2023]  When and Why Vision-Language Models Behave Like Bags-Of-Words, arXiv 2210.01936
    [zhang2018]     The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, arXiv 1801.03924
"""
