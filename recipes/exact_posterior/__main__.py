"""``python -m recipes.exact_posterior``."""

from __future__ import annotations

from mgdm_audio.cli.common import wait_briefly

if __name__ == "__main__":
    wait_briefly()  # before torch, which the commands load
    from recipes.exact_posterior.cli import main

    main()
