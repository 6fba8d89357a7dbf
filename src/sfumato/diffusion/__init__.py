"""The mathematics of diffusion: schedules, noise levels, parameterizations, the forward process, guidance.

Sources, by the keys that docstrings here and in `sfumato.samplers` use:

    [esser2024]         Scaling Rectified Flow Transformers for High-Resolution Image Synthesis, arXiv 2403.03206
    [ho2020]            Denoising Diffusion Probabilistic Models, arXiv 2006.11239
    [ho2022]            Classifier-Free Diffusion Guidance, arXiv 2207.12598
    [hang2023]          Efficient Diffusion Training via Min-SNR Weighting Strategy, arXiv 2303.09556
    [huber1964]         Robust Estimation of a Location Parameter
    [karras2022]        Elucidating the Design Space of Diffusion-Based Generative Models, arXiv 2206.00364
    [kynkaanniemi2024]  Applying Guidance in a Limited Interval, arXiv 2404.07724
    [lin2023]           Common Diffusion Noise Schedules and Sample Steps are Flawed, arXiv 2305.08891
    [liu2022]           Pseudo Numerical Methods for Diffusion Models on Manifolds, arXiv 2202.09778
    [lu2022b]           DPM-Solver++, arXiv 2211.01095
    [lugmayr2022]       RePaint: Inpainting using Denoising Diffusion Probabilistic Models, arXiv 2201.09865
    [luo2023]           Latent Consistency Models, arXiv 2310.04378
    [nichol2021]        Improved Denoising Diffusion Probabilistic Models, arXiv 2102.09672
    [rombach2022]       High-Resolution Image Synthesis with Latent Diffusion Models, arXiv 2112.10752
    [salimans2022]      Progressive Distillation for Fast Sampling of Diffusion Models, arXiv 2202.00512
    [song2021]          Denoising Diffusion Implicit Models, arXiv 2010.02502
    [song2023]          Consistency Models, arXiv 2303.01469
    [yu2023]            Debias the Training of Diffusion Models, arXiv 2310.08442
    [zhao2023]          UniPC: A Unified Predictor-Corrector Framework, arXiv 2302.04867
"""
