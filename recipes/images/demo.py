"""The demonstration: a row of held-out digits under four tasks, with the embedded prior."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from mgdm_audio.io.atomic import write_text
from recipes.images.errors import ImageUsageError
from recipes.images.metrics import LPIPS, psnr
from recipes.images.pictures import task_grid
from recipes.images.presets import DEFAULT, describe, settings_for
from recipes.images.priors import load_prior
from recipes.images.priors.digits import digits
from recipes.images.restore import SIGMA_Y, measure, observe, restore
from recipes.images.tasks import TASKS, build_task

__all__ = ["DEMO_TASKS", "run_demo"]

DEMO_TASKS = ("inpainting_center", "sr4", "motion_blur", "jpeg2")


def run_demo(
    out: Path,
    *,
    count: int = 8,
    samples: int = 4,
    seed: int = 0,
    report: Callable[[str, float], None] | None = None,
) -> list[str]:
    """Restore and write ``demo.png`` and ``demo.json``.

    Returns
    -------
    list of str
        One line per task.
    """
    held_out, _ = digits(held_out=True)
    if not 1 <= count <= len(held_out):
        raise ImageUsageError(f"the row holds 1 to {len(held_out)} digits; found {count}")
    truth = held_out[:count]
    prior = load_prior("digits")
    parts, lines, record = {}, [], {}
    silent = LPIPS.absent("not measured in the demonstration")
    for k, task in enumerate(DEMO_TASKS):
        degradation = build_task(task, prior.image_shape, seed=seed)
        y = observe(degradation, truth, SIGMA_Y, seed)
        settings = settings_for(DEFAULT, degradation, prior)

        def progress(p, k: int = k, task: str = task) -> None:
            if report is not None:
                report(TASKS[task].title, (k + p.step / p.steps) / len(DEMO_TASKS))

        result = restore(
            prior, degradation, y, settings, samples=samples, seed=seed, callback=progress
        )
        rows = measure(truth, result, silent)
        quality = sum(row["psnr_mean"] for row in rows) / len(rows)
        inverse = degradation.pseudo_inverse(y, SIGMA_Y)
        line = f"{TASKS[task].title}: PSNR of the posterior mean {quality:.1f} dB"
        if inverse is not None:
            plain = float(psnr(inverse.clamp(-1, 1), truth).mean())
            line += f" (pseudo-inverse {plain:.1f} dB)"
        lines.append(f"{line}, {result.seconds:.0f} s")
        parts[task] = (degradation.picture(y), result, f"{quality:.1f} dB")
        record[task] = {
            "settings": describe(settings),
            "psnr_mean": quality,
            "seconds": result.seconds,
            "trace": result.trace.to_dict(),
        }
    task_grid(
        out / "demo.png", truth, parts, title="The library's default with the embedded digits prior"
    )
    write_text(out / "demo.json", json.dumps(record, indent=1))
    if report is not None:
        report("done", 1.0)
    return lines
