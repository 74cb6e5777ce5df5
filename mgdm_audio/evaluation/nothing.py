"""Rows of every table that separate nothing, so that a reader sees what a score is worth.

An equal share of the mixture for every stem, and the same with zeros where the truth is silent: the
published protocol rewards the second with more than most separators reach.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from mgdm_audio.metrics.si_sdr import WindowScores, score_windows
from mgdm_audio.metrics.silence import ACTIVE_RMS
from mgdm_core.array_types import Float, Tensor

MIXTURE = "nothing: an equal share of the mixture"
ORACLE = "nothing: the same, zeros where the truth is silent"


def rows_of_nothing(
    references: Float[Tensor, "stems samples"], mixture: Float[Tensor, " samples"], rate: int
) -> dict[str, WindowScores]:
    """Scores of what separates nothing.

    Returns
    -------
    dict of str to WindowScores
        :data:`MIXTURE` is the mixture over the number of stems; :data:`ORACLE` has silence instead
        in every window in which the reference's RMS is below
        :data:`~mgdm_audio.metrics.silence.ACTIVE_RMS`.
    """
    share = (mixture / len(references)).expand_as(references)
    scores = score_windows(share, references, mixture, rate)
    silent = scores.rms < ACTIVE_RMS
    # Nothing at all against anything scores 0 dB: both sums are then the same.
    zeroed = replace(
        scores,
        si_sdr=torch.where(silent, 0.0, scores.si_sdr),
        estimate_rms=torch.where(silent, 0.0, scores.estimate_rms),
        retained=torch.where(silent, 0.0, scores.retained),
    )
    return {MIXTURE: scores, ORACLE: zeroed}
