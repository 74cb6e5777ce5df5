"""Ctrl-C while modules are loaded: they are loaded first."""

import os
import subprocess
import sys
import textwrap

import pytest


@pytest.mark.skipif(os.name != "posix", reason="sends signals as POSIX does")
@pytest.mark.parametrize(("name", "code", "word"), [("SIGINT", 130, "interrupted"),
                                                    ("SIGTERM", 143, "terminated")])  # fmt: skip
def test_a_signal_waits_until_a_module_is_loaded(tmp_path, repo_root, name, code, word):
    """A half-loaded numpy or torch ended in internal errors, tracebacks and aborts."""
    (tmp_path / "slow_module.py").write_text(
        textwrap.dedent(f"""
        import os, signal, time
        os.kill(os.getpid(), signal.{name})
        time.sleep(0.5)
        print("loaded", flush=True)
        """)
    )
    (tmp_path / "command.py").write_text(
        textwrap.dedent("""
        import signal
        import time
        import click
        from mgdm_audio.cli.common import Command

        @click.command(cls=Command)
        def main():
            import slow_module
            time.sleep(20)
            print("went on")

        # A shell's background job, as this may be one, ignores Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        main()
        """)
    )
    environment = os.environ | {"PYTHONPATH": f"{repo_root}{os.pathsep}{tmp_path}"}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "command.py")],
        env=environment, capture_output=True, text=True, check=False, timeout=15,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (code, "loaded\n")
    assert done.stderr.split() == [word]  # click ends the line of the terminal's ^C
