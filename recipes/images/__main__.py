"""Entry point of ``python -m recipes.images``."""

from __future__ import annotations

from mgdm_audio.cli.common import wait_briefly

if __name__ == "__main__":
    wait_briefly()  # before torch, which the commands load
    from recipes.images.cli import main

    main(prog_name="python -m recipes.images")
