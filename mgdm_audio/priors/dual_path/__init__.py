"""The spectral denoiser with a second trunk: attention over bands and over time in turn."""
