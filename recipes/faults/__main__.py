"""``python -m recipes.faults``."""

from __future__ import annotations

from recipes.faults.cli import main

if __name__ == "__main__":
    main()
