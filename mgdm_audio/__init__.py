"""Music source separation with a diffusion prior."""
