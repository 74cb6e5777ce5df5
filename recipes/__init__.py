"""What uses the two packages: studies, training recipes and benchmarks."""
