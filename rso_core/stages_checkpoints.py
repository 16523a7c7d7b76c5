"""The stage that makes reward hacking visible: proxy, gold and KL of every checkpoint, on validation prompts.

Proxy and responses are those that checkpoint selection has made. KL needs responses of its own, at temperature 1 from the
whole vocabulary. Nothing is chosen by these figures, so the gold reward may be read here.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import pyarrow as pa

from rso_core.artifacts import ROWS, Row, iterate_rows
from rso_core.protocol import Metrics
from rso_core.stages import Job
from rso_core.stages_evaluation import RESPONSES, gold_of, outcome, respond
from rso_core.stages_sampling import policy_prompt
from rso_core.win_rate import win_rate

MEASURED = pa.schema([("step", pa.int64()), *RESPONSES, ("probability", pa.float64())])
DIVERGENCES = pa.schema(
    [("step", pa.int64()), ("prompt_id", pa.string()), ("tokens", pa.int32()), ("kl", pa.float64())]
)
_RESPONSES_AT_ONCE = 4  # both tables of tokens by vocabulary are in memory


def checkpoint_figures(job: Job) -> dict[str, Any]:
    """Measure every checkpoint: proxy and gold win rate, variety, and KL(π_θ ‖ π_sft) in nats a response."""
    folders = sorted((job.store.path(job.spec.inputs["checkpoints"]) / "checkpoints").iterdir())
    selected = _selected(job)
    figures: list[dict[str, Any]] = []

    def rows() -> Iterator[Row]:
        for folder in folders:
            step = int(folder.name.removeprefix("step-"))
            found = _divergences(job, job.models.load(folder, job.spec.inputs["checkpoints"], job.config["dtype"]))
            figures.append({"step": step, "kl": _kl(job, found), **_rates(job, selected.get(step, []))})
            job.emit(Metrics(step=step, values=_points(figures[-1])))
            yield from ({"step": step, **row} for row in found)

    job.write(rows(), DIVERGENCES)
    return {"checkpoints": figures}


def _selected(job: Job) -> dict[int, list[Row]]:
    """Return the responses of each step that selection has judged; none where it kept the last step unseen."""
    rows = iterate_rows(job.files("selection", ROWS))
    return {step: list(found) for step, found in groupby(rows, key=itemgetter("step"))}


def _divergences(job: Job, lm: Any) -> list[Row]:
    from rso_core.kl_divergence import response_kl

    responses = list(respond(job, lm))
    prompts = [policy_prompt(job, lm.tokenizer, lm.family, row["messages"]).ids for row in responses]
    pairs = [(ids, row["response_token_ids"]) for ids, row in zip(prompts, responses, strict=True)]
    values = response_kl(lm, job.model("policy"), pairs, batch_size=_RESPONSES_AT_ONCE)
    return [
        {"prompt_id": row["prompt_id"], "root": row["root"], "tokens": len(row["response_token_ids"]), "kl": value}
        for row, value in zip(responses, values, strict=True)
    ]


def _kl(job: Job, rows: Sequence[Row]) -> dict[str, Any]:
    from rso_core.kl_divergence import mean_kl

    draws, seed = job.config["bootstrap_draws"], job.config["seed"]
    return mean_kl([row["kl"] for row in rows], [row["root"] for row in rows], draws=draws, seed=seed).as_dict()


def _rates(job: Job, rows: Sequence[Row]) -> dict[str, Any]:
    """Return win rates and variety of the responses that selection has judged."""
    from rso_core.response_statistics import variety

    if not rows:
        return {"proxy": None, "gold": None}
    roots, settings = (
        [row["root"] for row in rows],
        {"draws": job.config["bootstrap_draws"], "seed": job.config["seed"]},
    )
    golds = [gold["gold_win"] for gold in gold_of(job, rows)]
    known = [gold for gold in golds if gold is not None]
    return {
        "proxy": win_rate([outcome(row["probability"]) for row in rows], roots, **settings).as_dict(),
        "gold": win_rate(known, roots, **settings).as_dict() if known else None,
        **variety([row["response"] for row in rows]),
    }


def _points(figure: dict[str, Any]) -> dict[str, float]:
    """Return what is drawn of a checkpoint."""
    names = {"proxy": "proxy_along", "gold": "gold_along", "kl": "kl"}
    return {word: figure[name]["value"] for name, word in names.items() if figure[name] is not None}
