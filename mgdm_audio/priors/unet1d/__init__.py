"""The waveform network of published MSDM checkpoints."""
