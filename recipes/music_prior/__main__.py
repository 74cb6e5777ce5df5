"""Command line of the bundled prior: ``python -m recipes.music_prior COMMAND``."""

from __future__ import annotations

from recipes.music_prior.commands import main

if __name__ == "__main__":
    main()
