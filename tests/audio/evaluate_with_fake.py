"""``mgdm-evaluate`` with the cheap separator of the tests in place of a prior.

Run as ``python -m tests.audio.evaluate_with_fake ARGUMENTS``. ``FAKE_FAIL`` names tracks that
raise, ``FAKE_DELAY`` is seconds per track, ``FAKE_DIE`` a file at which a worker kills itself once,
``FAKE_LOG`` a file that records what was worked on.
"""

import os

from mgdm_audio.cli import evaluate as command

from .fake_separator import FakeSpec


def make_spec(prior, preset, precision, batch_size):
    return FakeSpec(
        fail=[name for name in os.environ.get("FAKE_FAIL", "").split(",") if name],
        delay=float(os.environ.get("FAKE_DELAY", "0")),
        die=os.environ.get("FAKE_DIE"),
        log=os.environ.get("FAKE_LOG"),
    )


def main(args=None, **options):
    command.make_spec = make_spec
    command.default_sampler = lambda preset: "bands"
    return command.main(args, prog_name="mgdm-evaluate", **options)


if __name__ == "__main__":
    main()
