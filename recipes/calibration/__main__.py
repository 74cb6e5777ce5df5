"""``python -m recipes.calibration``."""

from __future__ import annotations

from recipes.calibration.cli import main

if __name__ == "__main__":
    main()
