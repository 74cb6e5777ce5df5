"""A Hugging Face Space: `pip install .[web]` and this file are all that it needs.

Spaces reach it from outside by their own gateway, so it listens on every address there.
"""

import tempfile
from pathlib import Path

from mgdm_audio.cli.common import wait_briefly

if __name__ == "__main__":
    wait_briefly()  # before torch

import uvicorn

from mgdm_audio.cli.web import application
from mgdm_audio.web.settings import WebSettings

if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="mgdm-space-") as folder:
        limits = WebSettings(Path(folder), max_bytes=60_000_000, max_seconds=360, max_jobs=5)
        uvicorn.run(application(limits), host="0.0.0.0", port=7860, log_level="warning")
