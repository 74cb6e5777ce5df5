"""Entry point of ``python -m recipes.images``."""

from __future__ import annotations

from recipes.images.cli import main

if __name__ == "__main__":
    main(prog_name="python -m recipes.images")
