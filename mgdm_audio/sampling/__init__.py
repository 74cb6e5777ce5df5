"""Posterior samples of the stems at the rate of the prior."""
