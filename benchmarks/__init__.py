"""Side-by-side benchmarks: the same weights and mathematics in sfumato and in diffusers, as ratios."""
