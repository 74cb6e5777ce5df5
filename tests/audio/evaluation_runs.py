"""Quick evaluations on the generated Slakh."""

import json

from mgdm_audio.evaluation.result_files import result_rows
from mgdm_audio.evaluation.run import EvaluationSettings
from mgdm_audio.evaluation.run_folder import Variant
from mgdm_audio.evaluation.summary import summarise

RATE = 8000


BANDS = Variant("bands")


QUICK = EvaluationSettings(rate=RATE, bss=False)


def table(run):
    """Everything of a run that must not depend on how it was run."""
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in result_rows(run)]
    summary = summarise(run)
    return json.dumps(rows), [v.scores for v in summary.variants]
