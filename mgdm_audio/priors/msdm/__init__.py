"""Import of published MSDM checkpoints."""
