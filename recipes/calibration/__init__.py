"""Whether posterior samples mean what they say: ranks, coverage, and a classifier."""
