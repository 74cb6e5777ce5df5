"""The training of the prior."""
