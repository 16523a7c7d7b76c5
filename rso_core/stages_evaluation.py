"""The stages that measure: responses to prompts of a split or of a list, win rate against the SFT target, the report."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from rso_core.artifacts import Row, iterate_rows
from rso_core.auto_sxs import is_better_than_chance, worth_of
from rso_core.length_control import length_controlled
from rso_core.response_statistics import variety
from rso_core.stages import Counter, Job, prompts_of_split
from rso_core.stages_best_of import best_of_responses
from rso_core.stages_sampling import decode, policy_prompt, prompt_seed
from rso_core.vocabulary import canonical_json
from rso_core.win_rate import paired_difference
from rso_core.win_rate import win_rate as estimate_win_rate

RESPONSES = pa.schema(
    [
        *((name, pa.string()) for name in ("prompt_id", "root", "prompt", "messages", "meta", "target", "response")),
        ("response_token_ids", pa.list_(pa.int32())),
        ("truncated", pa.bool_()),
    ]
)
PROMPTS = pa.schema([(name, pa.string()) for name in ("prompt_id", "prompt", "messages")])
ANSWERS = pa.schema([RESPONSES.field(name) for name in ("prompt_id", "response", "response_token_ids", "truncated")])
# ρ(response beats target) and its outcome; the exact gold rewards of both, or the gold reward model's ρ, and the outcome.
_FIGURES = ("probability", "win", "gold_response", "gold_target", "gold_probability", "gold_win")
WINS = pa.schema(
    [
        *((name, pa.string()) for name in ("prompt_id", "root", "prompt", "target", "response")),
        *((name, pa.float64()) for name in _FIGURES),
        ("response_tokens", pa.int32()),
    ]
)
SIDE_BY_SIDES = 5
_RATES = {"proxy": "win", "gold": "gold_win"}
TIE = 0.5


def respond(job: Job, lm: Any, summary: dict[str, Any] | None = None) -> Iterator[Row]:
    """Yield one response of `lm` for each prompt of the stage's split, with the SFT target beside it.

    It is sampled, or the best of `best_of` samples; `summary` gets what choosing them took.
    """
    config = job.config
    rows = prompts_of_split(
        job.files("sft"), config["use_split"], config["split"], limit=config["max_prompts"], seed=config["seed"]
    )
    if "best_of" in config:
        found = best_of_responses(job, lm, rows, {} if summary is None else summary)
    else:
        found = sample_responses(job, lm, rows)
    for row, sampled in found:
        columns = {name: row[name] for name in ("prompt_id", "root", "prompt", "messages", "meta", "target")}
        yield columns | sampled


def sample_responses(job: Job, lm: Any, rows: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """Yield each row with one sampled response: a prompt's draws are the same whatever rows stand beside it."""
    from rso_core.generation import responses as sampled

    config = job.config
    counter = Counter(job, len(rows), "prompts")
    found = sampled(
        lm,
        [policy_prompt(job, lm.tokenizer, lm.family, row["messages"]).ids for row in rows],
        num_responses=1,
        temperature=config["temperature"],
        top_k=config["top_k"],
        max_new_tokens=config["max_response_tokens"],
        batch_size=config["batch_size"],
        seeds=[prompt_seed(config["seed"], "evaluation", row["prompt_id"]) for row in rows],
    )
    for row, (response,) in zip(rows, found, strict=True):
        counter.add(1, len(response.token_ids))
        yield (
            row,
            {
                "response": decode(lm.tokenizer, response.token_ids),
                "response_token_ids": response.token_ids,
                "truncated": response.truncated,
            },
        )


def responses(job: Job) -> dict[str, Any]:
    """Sample one response for each prompt of a list that somebody made: the tasks of a human evaluation."""
    rows = list(iterate_rows(job.files("prompts")))
    sampled = (
        {"prompt_id": row["prompt_id"], **found} for row, found in sample_responses(job, job.model("policy"), rows)
    )
    written = list(sampled)
    job.write(written, ANSWERS)
    tokens = sum(len(row["response_token_ids"]) for row in written)
    return {"prompts": len(written), "truncated": sum(row["truncated"] for row in written), "tokens": tokens}


def generation(job: Job) -> dict[str, Any]:
    """Sample one response for each prompt of the split."""
    counts: dict[str, Any] = {}
    rows = list(respond(job, job.model("policy"), counts))
    job.write(rows, RESPONSES)
    truncated = sum(row["truncated"] for row in rows)
    tokens = sum(len(row["response_token_ids"]) for row in rows)
    return {"prompts": len(rows), "truncated": truncated, "tokens": tokens, **counts}


def compare_with_target(job: Job, lm: Any, rows: Sequence[Row], reward: Mapping[str, Any]) -> list[float]:
    """Return ρ(response beats the SFT target) of each row; equal texts are an exact tie."""
    from rso_core.reward_ranking import prefer

    counter = Counter(job, len(rows), "comparisons")
    triples = [(row["prompt"], row["response"], row["target"]) for row in rows]
    found = prefer(
        lm,
        triples,
        task=reward["task"],
        max_length=reward["max_length"],
        order_average=reward["order_average"],
        batch_size=reward["batch_size"],
        on_progress=counter.add,
    )
    return [TIE if row["response"] == row["target"] else float(p) for row, p in zip(rows, found, strict=True)]


def outcome(probability: float) -> float:
    """Return 1 for a win, 0 for a loss, ½ for a tie."""
    return TIE if probability == TIE else float(probability > TIE)


def win_rate(job: Job) -> dict[str, Any]:
    """Compare the responses with the SFT targets: by ρ (proxy), and by the gold reward where there is one."""
    rows = list(iterate_rows(job.files("responses")))
    probabilities = compare_with_target(job, job.model("reward_model"), rows, job.config)
    golds = gold_of(job, rows)
    results = [_result(row, p) | gold for row, p, gold in zip(rows, probabilities, golds, strict=True)]
    job.write(results, WINS)
    clusters = [row["root"] for row in rows]
    draws, seed = job.config["bootstrap_draws"], job.config["seed"]
    rates = {
        name: estimate_win_rate([r[column] for r in results], clusters, draws=draws, seed=seed).as_dict()
        if results[0][column] is not None
        else None
        for name, column in _RATES.items()
    }
    return {
        **rates,
        "length_controlled": {
            name: _at_equal_length([r[column] for r in results], results, clusters) if rates[name] else None
            for name, column in _RATES.items()
        },
        "variety": variety([r["response"] for r in results]),
        "mean_response_tokens": float(np.mean([r["response_tokens"] for r in results])),
        "mean_response_chars": float(np.mean([len(r["response"]) for r in results])),
        "mean_target_chars": float(np.mean([len(r["target"]) for r in results])),
        "truncated": sum(row["truncated"] for row in rows),
        "longer_than_target": float(np.mean([len(r["response"]) > len(r["target"]) for r in results])),
    }


def _at_equal_length(wins: Sequence[float], rows: Sequence[Row], clusters: Sequence[str]) -> dict[str, Any] | None:
    differences = [len(row["response"]) - len(row["target"]) for row in rows]
    found = length_controlled(wins, differences, clusters)
    return found.as_dict() if found else None


def _result(row: Row, probability: float) -> Row:
    columns = {name: row[name] for name in ("prompt_id", "root", "prompt", "target", "response")}
    return {
        **columns,
        "probability": probability,
        "win": outcome(probability),
        "response_tokens": len(row["response_token_ids"]),
    }


def gold_of(job: Job, rows: Sequence[Row]) -> list[dict[str, float | None]]:
    """Return what the gold reward says of each row: exactly, by the gold reward model, or nothing."""
    unknown = dict.fromkeys(("gold_response", "gold_target", "gold_probability", "gold_win"))
    match job.config["gold"]:
        case "none":
            return [unknown for _ in rows]
        case "mini_tldr":
            return [unknown | _exact_gold(row) for row in rows]
    reward = job.config["gold_reward"]
    found = compare_with_target(job, job.model("gold_model"), rows, reward)
    return [unknown | {"gold_probability": p, "gold_win": outcome(p)} for p in found]


def _exact_gold(row: Row) -> dict[str, float]:
    from rso_core.mini_tldr import gold_reward

    response, target = gold_reward(row["meta"], row["response"]), gold_reward(row["meta"], row["target"])
    win = TIE if response == target else float(response > target)
    return {"gold_response": response, "gold_target": target, "gold_win": win}


def report(job: Job) -> dict[str, Any]:
    """Put SFT and policy side by side: win rates, the paired difference on the same prompts, lengths, examples."""
    sft, policy = (list(iterate_rows(job.files(name))) for name in ("sft", "policy"))
    if [row["prompt_id"] for row in sft] != [row["prompt_id"] for row in policy]:
        message = "SFT and policy were measured on different prompts"
        raise RuntimeError(message)
    judge = _add_judged(job, sft, policy)
    summary = {
        "sft": _rates(job, sft),
        "policy": _rates(job, policy),
        "difference": _differences(job, policy, sft),
        "length_change": {"mean_chars_sft": _mean_chars(sft), "mean_chars_policy": _mean_chars(policy)},
        **({"judge": judge} if judge else {}),
    }
    text = canonical_json({**summary, "side_by_sides": _side_by_sides(sft, policy)})
    (job.staging / "report.json").write_text(text, encoding="utf-8")
    return summary


def _rates(job: Job, rows: Sequence[Row]) -> dict[str, Any]:
    return {name: _estimate(job, [row[column] for row in rows], rows) for name, column in _METRICS.items()}


def _add_judged(job: Job, sft: Sequence[Row], policy: Sequence[Row]) -> dict[str, Any]:
    """Add AutoSxS to the rows of both systems, None where unjudged; return how good the judge is, nothing without one."""
    for name, rows in (("judged_sft", sft), ("judged_policy", policy)):
        found = iterate_rows(job.files(name)) if name in job.spec.inputs else iter(())
        outcomes = {row["prompt_id"]: row["outcome"] for row in found}
        for row in rows:
            row["auto_sxs"] = worth_of(outcomes.get(row["prompt_id"], "unjudged"))
    if "judge_accuracy" not in job.spec.inputs:
        return {}
    pairs = list(iterate_rows(job.files("judge_accuracy"), ("root", "outcome")))
    accuracy = _estimate(job, [worth_of(row["outcome"]) for row in pairs], pairs)
    return {"accuracy": accuracy, "better_than_chance": is_better_than_chance(accuracy)}


_METRICS = _RATES | {"auto_sxs": "auto_sxs"}


def _estimate(job: Job, wins: Sequence[float | None], rows: Sequence[Row]) -> dict[str, Any] | None:
    known = [(value, row["root"]) for value, row in zip(wins, rows, strict=True) if value is not None]
    if not known:
        return None
    values, roots = zip(*known, strict=True)
    return estimate_win_rate(values, roots, draws=job.config["bootstrap_draws"], seed=job.config["seed"]).as_dict()


def _differences(job: Job, policy: Sequence[Row], sft: Sequence[Row]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, column in _METRICS.items():
        both = [(ours[column], theirs[column], ours["root"]) for ours, theirs in zip(policy, sft, strict=True)]
        known = [item for item in both if None not in item]
        found[name] = None
        if known:
            ours, theirs, roots = zip(*known, strict=True)
            interval = paired_difference(
                ours, theirs, roots, draws=job.config["bootstrap_draws"], seed=job.config["seed"]
            )
            found[name] = interval.as_dict()
    return found


def _mean_chars(rows: Sequence[Row]) -> float:
    return float(np.mean([len(row["response"]) for row in rows]))


def _side_by_sides(sft: Sequence[Row], policy: Sequence[Row]) -> list[dict[str, Any]]:
    return [
        {
            "prompt": ours["prompt"],
            "target": ours["target"],
            "sft": theirs["response"],
            "policy": ours["response"],
            "probability_sft": theirs["probability"],
            "probability_policy": ours["probability"],
        }
        for theirs, ours in list(zip(sft, policy, strict=True))[:SIDE_BY_SIDES]
    ]
