"""The spectral denoiser of the bundled prior."""
