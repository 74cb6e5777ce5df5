"""What a run writes about itself while it goes on, and how it is asked to stop."""

from __future__ import annotations

import csv
import signal
from pathlib import Path
from typing import Any

import torch

from mgdm_core.array_types import Tensor

__all__ = ["InterruptFlag", "Log", "Tally"]


class Log:
    """CSV with one line per report; lines of a broken-off future are cut when a run resumes."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        rows: list[dict[str, str]] = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
        self.fields: list[str] | None = list(rows[0]) if rows else None
        if rows:
            self._write(rows, "w", header=True)
        elif path.exists():
            path.unlink()

    def _write(self, rows: list[dict[str, Any]], mode: str, header: bool) -> None:
        assert self.fields is not None
        with self.path.open(mode, newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.fields)
            if header:
                writer.writeheader()
            writer.writerows(rows)

    def add(self, row: dict[str, float]) -> None:
        """Append a report."""
        header = self.fields is None
        self.fields = self.fields or list(row)
        self._write(
            [{k: f"{v:.6g}" if k != "step" else int(v) for k, v in row.items()}], "a", header
        )


class Tally:
    """Means over the steps of one report."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.sigmas: list[Tensor] = []
        self.norms: list[float] = []
        self.waited = 0.0

    def add(self, losses: Tensor, sigma: Tensor, norm: Tensor, waited: float) -> None:
        """Take in one step."""
        self.losses.append(losses.float().cpu())
        self.sigmas.append(sigma.cpu())
        self.norms.append(float(norm))
        self.waited += waited

    def row(self, step: int, rate: float, wall: float) -> dict[str, float]:
        """Means since the last report, with the losses of low, middle and high noise apart."""
        losses, sigmas = torch.cat(self.losses), torch.cat(self.sigmas)

        def mean(keep: Tensor) -> float:
            return float(losses[keep].mean()) if bool(keep.any()) else float("nan")

        return {
            "step": step,
            "loss": float(losses.mean()),
            "loss_low": mean(sigmas < 0.03),
            "loss_middle": mean((sigmas >= 0.03) & (sigmas < 0.3)),
            "loss_high": mean(sigmas >= 0.3),
            "gradient_norm": sum(self.norms) / len(self.norms),
            "learning_rate": rate,
            "step_seconds": wall / len(self.norms),
            "waiting_share": self.waited / max(wall, 1e-9),
        }


class InterruptFlag:
    """Turns the first interrupt, termination or hangup into a wish to stop after the step."""

    def __init__(self) -> None:
        self.raised = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> InterruptFlag:
        names = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no hangup
        for number in (getattr(signal, name) for name in names if hasattr(signal, name)):
            if signal.getsignal(number) == signal.SIG_IGN:
                continue  # nohup works
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:
                # Only the main thread may do this; elsewhere the caller's own handling stands.
                return self
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        if self.raised:
            raise KeyboardInterrupt
        self.raised = True
