"""The stages of AutoSxS: responses against the SFT targets, and the judge itself against held-out human pairs."""

import hashlib
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from rso_core.answer_cache import AnswerCache
from rso_core.artifacts import Row, iterate_rows
from rso_core.auto_sxs import FewShot, is_better_than_chance, summarize
from rso_core.endpoint_settings import find_endpoint
from rso_core.judging import Comparison, EndpointJudge, Judge, Judged, ModelJudge, Sampling, judge_comparisons
from rso_core.run_data import choose_prompts
from rso_core.stages import Counter, Job, rows_of_split
from rso_core.vocabulary import canonical_json

ANSWER = pa.struct([("text", pa.string()), ("choice", pa.string()), ("flipped", pa.bool_())])
VERDICTS = pa.schema(
    [
        *((name, pa.string()) for name in ("prompt_id", "root", "prompt", "first", "second", "outcome")),
        ("average", pa.float64()),
        *((name, pa.int32()) for name in ("parsed", "unparseable")),
        ("order_flip", pa.bool_()),
        ("answers", pa.list_(ANSWER)),
    ]
)


def auto_sxs(job: Job) -> dict[str, Any]:
    """Let the judge compare each response with the SFT target of its prompt."""
    rows = list(iterate_rows(job.files("responses")))
    judged = judge_rows(job, rows, [Comparison(row["prompt"], row["response"], row["target"]) for row in rows])
    return _summary(job, rows, judged)


def judge_accuracy(job: Job) -> dict[str, Any]:
    """Measure the judge on held-out human pairs: how often it agrees, and how often the order decides."""
    heldout = rows_of_split(job.files("preferences"), "test", job.config["split"])
    rows = _drawn(heldout, job.config["accuracy_pairs"], job.config["seed"])
    judged = judge_rows(job, rows, [Comparison(row["prompt"], row["chosen"], row["rejected"]) for row in rows])
    summary = _summary(job, rows, judged)
    accuracy = summary.pop("score")
    return summary | {"accuracy": accuracy, "better_than_chance": is_better_than_chance(accuracy)}


def _drawn(rows: Sequence[Row], limit: int, seed: int) -> list[Row]:
    """Return `limit` rows (0: all), drawn and ordered by seed."""
    by_id = {f"{row['row_id']}": row for row in rows}
    return [by_id[name] for name in choose_prompts(by_id, limit, seed)]


def judge_rows(job: Job, rows: Sequence[Row], comparisons: Sequence[Comparison]) -> Judged:
    """Put comparisons to the stage's judge, and write a row for each."""
    judged = ask_judge(job, comparisons)
    job.write(_verdict_rows(rows, comparisons, judged), VERDICTS)
    return judged


def ask_judge(job: Job, comparisons: Sequence[Comparison]) -> Judged:
    """Return what the stage's judge (`judge` in its configuration) makes of comparisons."""
    settings = job.config["judge"]
    sampling = Sampling(**{name: settings[name] for name in ("samples", "temperature", "top_k", "max_tokens")})
    counter = Counter(job, len(comparisons), "comparisons")
    with AnswerCache(job.store.root / "judge_answers" / _identity(job)) as cache:
        return judge_comparisons(
            _judge(job),
            comparisons,
            few_shot=FewShot.model_validate(settings["few_shot"]),
            sampling=sampling,
            seed=job.config["seed"],
            cache=cache,
            on_progress=counter.add,
        )


def _judge(job: Job) -> Judge:
    settings = job.config["judge"]
    if "endpoint" in settings:
        from rso_core.endpoint import Endpoint

        return EndpointJudge(Endpoint(find_endpoint(settings["endpoint"]["name"], settings["endpoint"]["model"])))
    return ModelJudge(job.model("judge", dtype=settings["dtype"]), batch_size=settings["batch_size"])


def _identity(job: Job) -> str:
    """Return the name of the judge's folder of answers: another model or precision is another judge."""
    settings = job.config["judge"]
    who = settings.get("endpoint") or [job.spec.inputs["judge"], settings["dtype"]]
    return hashlib.sha256(canonical_json(who).encode()).hexdigest()[:32]


def _verdict_rows(rows: Sequence[Row], comparisons: Sequence[Comparison], judged: Judged) -> list[Row]:
    return [
        {
            **{name: row[name] for name in ("prompt_id", "root", "prompt")},
            "first": comparison.first,
            "second": comparison.second,
            **{name: getattr(found, name) for name in ("outcome", "average", "parsed", "unparseable", "order_flip")},
            "answers": answers,
        }
        for row, comparison, found, answers in zip(rows, comparisons, judged.verdicts, judged.answers, strict=True)
    ]


def _summary(job: Job, rows: Sequence[Row], judged: Judged) -> dict[str, Any]:
    draws, seed = job.config["bootstrap_draws"], job.config["seed"]
    summary = summarize(judged.verdicts, [row["root"] for row in rows], draws=draws, seed=seed) | judged.counts()
    if summary["unparseable"] * 5 > summary["samples"]:
        job.log(
            f"{summary['unparseable']} of {summary['samples']} answers of the judge hold no choice ({judged.cut_off} were cut "
            f"off at judge.max_tokens): raise judge.max_tokens, edit judge.few_shot, or take a stronger judge",
            warning=True,
        )
    if 2 * judged.single_answers > judged.questions:
        job.log(
            f"all answers of the judge to {judged.single_answers} of {judged.questions} questions are the same text: it may not "
            f"sample (transformers serve is greedy unless the model's generation_config says do_sample)",
            warning=True,
        )
    return summary
