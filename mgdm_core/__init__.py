"""Posterior sampling with diffusion priors, for any prior, operator and likelihood."""
