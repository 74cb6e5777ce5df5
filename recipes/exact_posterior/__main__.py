"""``python -m recipes.exact_posterior``."""

from __future__ import annotations

from recipes.exact_posterior.cli import main

if __name__ == "__main__":
    main()
