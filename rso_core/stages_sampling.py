"""The stages between π_sft and what is kept of its samples: sampling, scoring, rejection sampling.

Rows are keyed by (prompt_id, sample_index) end to end; responses travel as token ids.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import islice, repeat
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from rso_core.artifacts import Row, iterate_rows, read_table
from rso_core.errors import UserError
from rso_core.stages import Counter, Job, prompts_of_split
from rso_core.vocabulary import Family, text_digest

if TYPE_CHECKING:
    from rso_core.rejection_sampling import Selection

TOKENS = pa.list_(pa.int32())
CANDIDATE = pa.struct(
    [("sample_index", pa.int32()), ("text", pa.string()), ("token_ids", TOKENS), ("truncated", pa.bool_())]
)
PROMPT = [
    ("prompt_id", pa.string()),
    ("prompt", pa.string()),
    ("messages", pa.string()),
    ("prompt_token_ids", TOKENS),
]
POOL = pa.schema([*PROMPT, ("candidates", pa.list_(CANDIDATE)), ("baseline", CANDIDATE)])
SCORES = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("rewards", pa.list_(pa.float64())),
        ("logit_first", pa.list_(pa.float64())),
        ("logit_second", pa.list_(pa.float64())),
        ("outside_mass", pa.list_(pa.float64())),
    ]
)
KEPT = pa.schema(
    [
        *PROMPT,
        ("kept", pa.list_(CANDIDATE)),
        ("rounds", pa.list_(pa.int32())),
        ("kept_rewards", pa.list_(pa.float64())),
        *((name, pa.float64()) for name in ("observed", "expected", "theorem1", "ess")),
        *((name, pa.int32()) for name in ("trials", "accepted", "num_rounds", "distinct")),
        ("short", pa.bool_()),
    ]
)

_TRUNCATED_WARNING = 0.2  # share of candidates without an end-of-sequence
_SATURATED = 10  # a logit beyond this says no more than that the model is sure
_PROMPTS_SCORED_TOGETHER = 16
_BLOCK = 1024  # prompts whose candidates are kept in memory together
_FIGURES = ("observed", "expected", "theorem1", "ess", "trials", "accepted", "num_rounds", "distinct")


def prompt_seed(seed: int, purpose: str, prompt_id: str) -> int:
    """Return the seed of one prompt's draws: the same whatever shard or batch the prompt is in."""
    return int(text_digest(f"{seed}:{purpose}:{prompt_id}"), 16) >> 1


def policy_prompt(job: Job, tokenizer: Any, family: Family, messages: str) -> Any:
    """Return the policy's token ids of a prompt under the stage's template and length limit."""
    import json

    from rso_core.templates import policy_prompt_ids

    return policy_prompt_ids(
        tokenizer,
        family,
        json.loads(messages),
        task=job.config["task"],
        prompt_template=job.config["prompt_template"],
        max_tokens=job.config["max_prompt_tokens"],
    )


def decode(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """Return the text of a response, without special tokens."""
    text: str = tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


def shard_of(rows: Sequence[Row], job: Job, size: int) -> Sequence[Row]:
    """Return this shard's prompts: blocks of `size`, in order."""
    return rows[job.spec.shard_index * size : (job.spec.shard_index + 1) * size]


def sampling(job: Job) -> dict[str, Any]:
    """Sample `num_candidates` responses and one baseline for each prompt of this shard from π_sft."""
    sampling_config, seed = job.config["sampling"], job.config["seed"]
    prompts = prompts_of_split(
        job.files("sft"), "train", job.config["split"], limit=sampling_config["max_prompts"], seed=seed
    )
    rows = shard_of(prompts, job, sampling_config["prompts_per_shard"])
    summary = {
        "prompts": len(rows),
        "decodes": 0,
        "baseline_decodes": len(rows),
        "truncated": 0,
        "distinct": 0,
        "tokens": 0,
    }
    written = job.write(_sample_rows(job, rows, summary), POOL)
    if written != len(rows):
        message = f"sampling lost prompts: {len(rows)} in, {written} out"
        raise RuntimeError(message)
    share = summary["truncated"] / max(summary["decodes"], 1)
    if share > _TRUNCATED_WARNING:
        job.log(
            f"{share:.0%} of the candidates hit the limit of {job.config['max_response_tokens']} tokens without an "
            f"end-of-sequence; raise data.max_response_tokens or train the SFT model longer",
            warning=True,
        )
    return summary


def _sample_rows(job: Job, rows: Sequence[Row], summary: dict[str, Any]) -> Iterator[Row]:
    from rso_core.generation import responses

    config = job.config["sampling"]
    counter = Counter(job, len(rows) * config["num_candidates"], "candidates")
    seeds = [prompt_seed(job.config["seed"], "sampling", row["prompt_id"]) for row in rows]
    if "endpoint" in job.config:
        yield from _endpoint_rows(job, rows, seeds, counter, summary)
        return
    lm = job.model("policy")
    prompts = [policy_prompt(job, lm.tokenizer, lm.family, row["messages"]) for row in rows]
    samples = responses(
        lm,
        [prompt.ids for prompt in prompts],
        num_responses=config["num_candidates"] + 1,
        temperature=config["temperature"],
        top_k=config["top_k"],
        max_new_tokens=job.config["max_response_tokens"],
        seeds=seeds,
        batch_size=config["batch_size"],
    )
    for row, prompt, found in zip(rows, prompts, samples, strict=True):
        pool = [_candidate(lm.tokenizer, i, response) for i, response in enumerate(found)]
        yield _pool_row(row, prompt.ids, pool, counter, summary)


def _endpoint_rows(
    job: Job, rows: Sequence[Row], seeds: Sequence[int], counter: Counter, summary: dict[str, Any]
) -> Iterator[Row]:
    from rso_core.endpoint_sampling import EndpointPool
    from rso_core.models import load_tokenizer

    tokenizer, family = load_tokenizer(job.model_folder("policy"))
    asking = EndpointPool(job, tokenizer)
    for row, pool in zip(rows, asking.candidates(rows, seeds), strict=True):
        ids = policy_prompt(job, tokenizer, family, row["messages"]).ids
        yield _pool_row(row, ids, pool, counter, summary)
    summary |= asking.counts


def _pool_row(row: Row, prompt_ids: list[int], pool: list[Row], counter: Counter, summary: dict[str, Any]) -> Row:
    """Return a row of the pool; the last decode is the baseline y_b: drawn like the others, never one of them."""
    baseline = {**pool.pop(), "sample_index": -1}
    tokens = sum(len(c["token_ids"]) for c in pool)
    _count_pool(summary, pool, tokens)
    counter.add(len(pool), tokens + len(baseline["token_ids"]))
    return {**prompt_columns(row), "prompt_token_ids": prompt_ids, "candidates": pool, "baseline": baseline}


def blocks(rows: Sequence[Row], size: int) -> Iterator[Sequence[Row]]:
    """Yield `rows` in order, `size` at a time."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _candidate(tokenizer: Any, index: int, response: Any) -> Row:
    return {
        "sample_index": index,
        "text": decode(tokenizer, response.token_ids),
        "token_ids": response.token_ids,
        "truncated": response.truncated,
    }


def _count_pool(summary: dict[str, Any], pool: Sequence[Row], tokens: int) -> None:
    summary["decodes"] += len(pool)
    summary["truncated"] += sum(c["truncated"] for c in pool)
    summary["distinct"] += len({c["text"] for c in pool})
    summary["tokens"] += tokens


def prompt_columns(row: Row) -> Row:
    """Return what each row of the pool, the kept samples and the pairs says about its prompt."""
    return {name: row[name] for name in ("prompt_id", "prompt", "messages")}


def scoring(job: Job) -> dict[str, Any]:
    """Score each candidate of a shard against the prompt's baseline: the induced reward r_ψ (eq. 7)."""
    pool = list(iterate_rows([job.shard_file("pool")]))
    total = sum(len(row["candidates"]) for row in pool)
    forwards = total * (2 if job.config["order_average"] else 1)
    summary = {
        "prompts": len(pool),
        "comparisons": total,
        "saturated": 0,
        "outside_mass": 0.0,
        "reward_forwards": forwards,
    }
    job.write(_scored(job, pool, Counter(job, total, "candidates"), summary), SCORES)
    if summary["saturated"]:
        job.log(
            f"{summary['saturated']} of {total} reward logits are beyond {_SATURATED}: the reward model is saturated",
            warning=True,
        )
    return summary


def _scored(job: Job, pool: Sequence[Row], counter: Counter, summary: dict[str, Any]) -> Iterator[Row]:
    """Yield the scores of each prompt's candidates; a few prompts are read together."""
    from rso_core.reward_ranking import Pool, rewards

    settings = {name: job.config[name] for name in ("task", "max_length", "order_average", "batch_size")}
    for block in blocks(pool, _PROMPTS_SCORED_TOGETHER):
        pools = [Pool(row["prompt"], [c["text"] for c in row["candidates"]], row["baseline"]["text"]) for row in block]
        found = rewards(job.model("reward_model"), pools, on_progress=counter.add, **settings)
        for row, result in zip(block, found, strict=True):
            _refuse_non_finite(row["prompt_id"], result.rewards)
            summary["saturated"] += sum(abs(value) > _SATURATED for value in result.rewards)
            summary["outside_mass"] += float(sum(result.outside_mass))
            yield {"prompt_id": row["prompt_id"], **vars(result)}


def _refuse_non_finite(prompt_id: str, values: Sequence[float]) -> None:
    for index, value in enumerate(values):
        if not math.isfinite(value):
            message = (
                f"the reward of candidate {index} of prompt {prompt_id} is {value}; rewards must be finite. The reward model "
                f"has diverged: train it again with a lower reward.learning_rate"
            )
            raise UserError(message)


def rejection_sampling(job: Job) -> dict[str, Any]:
    """Keep `num_samples` candidates of each prompt by statistical rejection sampling (Algorithm 1)."""
    files = job.files("pool")
    total = sum(len(read_table([file], ["prompt_id"])) for file in files)
    scores = iterate_rows(job.files("scores")) if "scores" in job.spec.inputs else repeat(None, total)
    totals: dict[str, Any] = {"prompts": total, "short_prompts": 0, "excluded_truncated": 0}
    figures: list[Row] = []

    def kept() -> Iterator[Row]:
        counter = Counter(job, total, "prompts")
        together = zip(iterate_rows(files), scores, strict=True)
        # A pool of 64 long candidates for each of 100,000 prompts does not fit into memory at once.
        while block := list(islice(together, _BLOCK)):
            for row in _keep(job, block, totals):
                figures.append({name: row[name] for name in _FIGURES})
                yield row
            counter.add(len(block))

    job.write(kept(), KEPT)
    return totals | _acceptance(figures)


def _keep(job: Job, block: Sequence[tuple[Row, Row | None]], totals: dict[str, Any]) -> Iterator[Row]:
    """Yield the kept candidates of each prompt of a block, sampled all at once."""
    from rso_core.rejection_sampling import sample_many

    taking_part = [choices(row["candidates"], job.config["truncated"]) for row, _ in block]
    rewards = [rewards_of(row, score, chosen) for (row, score), chosen in zip(block, taking_part, strict=True)]
    names = [row["prompt_id"] for row, _ in block]
    selections = sample_many(
        rewards,
        num_samples=job.config["num_samples"],
        beta=float(job.config["beta"]),
        seeds=[prompt_seed(job.config["seed"], "rejection", name) for name in names],
        prompt_ids=names,
    )
    for (row, score), chosen, values, selection in zip(block, taking_part, rewards, selections, strict=True):
        totals["excluded_truncated"] += len(row["candidates"]) - len(chosen)
        totals["short_prompts"] += selection.short
        candidates = [row["candidates"][chosen[i]] for i in selection.indices]
        kept_rewards = None if score is None else [float(values[i]) for i in selection.indices]
        yield _kept_row(row, candidates, kept_rewards, selection)


def choices(candidates: Sequence[Row], truncated: str) -> list[int]:
    """Return which candidates take part: all, or those that ended by themselves."""
    return [i for i, candidate in enumerate(candidates) if truncated == "keep" or not candidate["truncated"]]


def rewards_of(row: Row, score: Row | None, chosen: Sequence[int]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the rewards of the candidates that take part; zeros where no reward is needed (β = ∞)."""
    if score is None:
        return np.zeros(len(chosen))
    if score["prompt_id"] != row["prompt_id"] or len(score["rewards"]) != len(row["candidates"]):
        message = (
            f"{len(score['rewards'])} scores are of prompt {score['prompt_id']}, {len(row['candidates'])} candidates of "
            f"{row['prompt_id']}"
        )
        raise RuntimeError(message)
    # Here, where the candidates still have their own numbers.
    _refuse_non_finite(row["prompt_id"], score["rewards"])
    return np.array([score["rewards"][i] for i in chosen], dtype=np.float64)


def _kept_row(row: Row, kept: list[Row], kept_rewards: list[float] | None, selection: "Selection") -> Row:
    return {
        **prompt_columns(row),
        "prompt_token_ids": row["prompt_token_ids"],
        "kept": kept,
        "rounds": list(selection.rounds),
        "kept_rewards": kept_rewards,
        "observed": selection.observed,
        "expected": selection.expected,
        "theorem1": selection.theorem1,
        "ess": selection.ess,
        "trials": selection.trials,
        "accepted": len(kept),
        "num_rounds": selection.num_rounds,
        "distinct": len({candidate["text"] for candidate in kept}),
        "short": selection.short,
    }


def _acceptance(rows: Sequence[Row]) -> dict[str, Any]:
    trials = sum(row["trials"] for row in rows)
    weighted = sum(row["expected"] * row["trials"] for row in rows if row["expected"] is not None)
    return {
        "trials": trials,
        "accepted": sum(row["accepted"] for row in rows),
        "observed_acceptance": sum(row["accepted"] for row in rows) / trials if trials else None,
        "expected_acceptance": weighted / trials if trials else None,
        "theorem1_acceptance": _mean([row["theorem1"] for row in rows]),
        "mean_ess": _mean([row["ess"] for row in rows]),
        "mean_rounds": _mean([row["num_rounds"] for row in rows]),
        "mean_distinct": _mean([row["distinct"] for row in rows]),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
