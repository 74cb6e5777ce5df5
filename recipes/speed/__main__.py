"""``python -m recipes.speed``."""

from __future__ import annotations

from recipes.speed.cli import main

if __name__ == "__main__":
    main()
