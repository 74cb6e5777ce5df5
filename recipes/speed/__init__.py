"""What the software costs, as ratios within one run: ``python -m recipes.speed``."""
