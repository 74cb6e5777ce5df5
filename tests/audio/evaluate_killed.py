"""Kill ``evaluate_with_fake`` several times at random moments, then let it end.

Run as ``python -m tests.audio.evaluate_killed LIVES SEED SPREAD OUT ARGUMENTS``. A moment is a
number of results that a life adds to OUT, and up to SPREAD seconds more; so that it falls into the
work however busy the machine is. Prints how often it killed and the last life's exit code.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path


def results(out):
    """Files that a run has finished."""
    return len(list(out.glob("*/tracks/**/*.json"))) + len(list(out.glob("*/bss/**/*.json")))


def live(arguments):
    """Start a life; forked, so that it need not import again what is imported here."""
    child = os.fork()
    if child == 0:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (ends with the process)
        code = 1
        try:
            from . import evaluate_with_fake

            evaluate_with_fake.main(arguments)
        except SystemExit as error:
            code = error.code or 0
        finally:
            os._exit(code)
    return child


def killed(child, out, wanted, delay):
    """Wait for the moment and kill; False where the life ended before."""
    began, before = time.monotonic(), results(out)
    reached = None
    while True:
        now = time.monotonic()
        if reached is None and results(out) >= before + wanted:
            reached = now
        if (reached is not None and now >= reached + delay) or now > began + 120:
            os.kill(child, signal.SIGKILL)
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.WIFSIGNALED(status)
        time.sleep(0.003)


def main():
    lives, seed, spread = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    out = Path(sys.argv[4])
    arguments = [*sys.argv[5:], "-o", str(out)]
    import pyarrow.parquet  # noqa: F401

    import mgdm_audio.cli.evaluate_run
    import mgdm_audio.reports.html
    import mgdm_audio.reports.summary_page  # noqa: F401

    moments = random.Random(seed)
    kills = 0
    for _ in range(6 * lives):
        # A life that had nothing left but the summary is killed there, or not at all.
        wanted, delay = moments.choice((0, 0, 1)), moments.uniform(0, spread)
        kills += killed(live(arguments), out, wanted, delay)
        if kills == lives:
            break
    _, status = os.waitpid(live(arguments), 0)
    print(kills, os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
