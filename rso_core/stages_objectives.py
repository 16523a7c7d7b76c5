"""The stage that makes one reward of several objectives' scores of the same pool."""

import json
from collections.abc import Iterator
from typing import Any

from rso_core.artifacts import Row, iterate_rows
from rso_core.objectives import scale_of, weighted_average
from rso_core.stages import Job
from rso_core.stages_sampling import SCORES

SCALES = "scales.json"


def combined_rewards(job: Job) -> dict[str, Any]:
    """Average the objectives' normalised rewards; the rows are scores as any other stage reads them."""
    names = [f"scores_{number}" for number in range(len(job.config["weights"]))]
    scales = [scale_of([r for row in iterate_rows(job.files(name)) for r in row["rewards"]]) for name in names]
    (job.staging / SCALES).write_text(json.dumps(scales), encoding="utf-8")
    rows = zip(*(iterate_rows(job.files(name)) for name in names), strict=True)
    written = job.write(_combined(job, rows, scales), SCORES)
    return {"prompts": written, "scales": scales}


def _combined(job: Job, rows: Iterator[tuple[Row, ...]], scales: list[float]) -> Iterator[Row]:
    for of_prompt in rows:
        if len({row["prompt_id"] for row in of_prompt}) != 1:
            message = f"the objectives scored different prompts: {[row['prompt_id'] for row in of_prompt]}"
            raise RuntimeError(message)
        average = weighted_average([row["rewards"] for row in of_prompt], job.config["weights"], scales)
        # What made the rewards stays with the objectives' own scores.
        nothing = dict.fromkeys(("logit_first", "logit_second", "outside_mass"))
        yield {"prompt_id": of_prompt[0]["prompt_id"], "rewards": average.tolist(), **nothing}
