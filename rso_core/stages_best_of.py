"""Best-of-N without training: of N responses to a prompt, the one with the highest reward r_ψ is evaluated."""

from collections.abc import Iterator, Sequence
from typing import Any

from rso_core.artifacts import Row
from rso_core.stages import Counter, Job
from rso_core.stages_sampling import blocks, decode, policy_prompt, prompt_seed

_PROMPTS_AT_ONCE = 16


def best_of_responses(job: Job, lm: Any, rows: Sequence[Row], summary: dict[str, Any]) -> Iterator[tuple[Row, Row]]:
    """Yield each row with its best response; the last decode of a prompt is the baseline y_b, never chosen.

    `summary` gets the comparisons made (N a prompt, none of them for training data) and the decodes of baselines.
    """
    counter = Counter(job, len(rows), "prompts")
    summary |= {"selection_comparisons": 0, "baseline_decodes": 0}
    for block in blocks(rows, _PROMPTS_AT_ONCE):
        samples = _samples(job, lm, block)
        chosen = _best(job, block, [[decode(lm.tokenizer, r.token_ids) for r in found] for found in samples])
        for row, found, index in zip(block, samples, chosen, strict=True):
            summary["selection_comparisons"] += len(found) - 1
            summary["baseline_decodes"] += 1
            counter.add(1, sum(len(response.token_ids) for response in found))
            response = found[index]
            yield (
                row,
                {
                    "response": decode(lm.tokenizer, response.token_ids),
                    "response_token_ids": response.token_ids,
                    "truncated": response.truncated,
                },
            )


def _samples(job: Job, lm: Any, rows: Sequence[Row]) -> list[Any]:
    from rso_core.generation import generate

    config = job.config
    return generate(
        lm,
        [policy_prompt(job, lm.tokenizer, lm.family, row["messages"]).ids for row in rows],
        num_responses=config["best_of"] + 1,
        temperature=config["temperature"],
        top_k=config["top_k"],
        max_new_tokens=config["max_response_tokens"],
        batch_size=config["batch_size"],
        seeds=[prompt_seed(config["seed"], "best of", row["prompt_id"]) for row in rows],
    )


def _best(job: Job, rows: Sequence[Row], texts: Sequence[Sequence[str]]) -> list[int]:
    """Return the position of the highest reward of each prompt's responses, the last of them being the baseline."""
    from rso_core.candidate_targets import best
    from rso_core.reward_ranking import Pool, rewards

    reward = job.config["reward"]
    settings = {name: reward[name] for name in ("task", "max_length", "order_average", "batch_size")}
    pools = [Pool(row["prompt"], found[:-1], found[-1]) for row, found in zip(rows, texts, strict=True)]
    scored = rewards(job.model("reward_model", dtype=reward["dtype"]), pools, **settings)
    seeds = [prompt_seed(job.config["seed"], "best", row["prompt_id"]) for row in rows]
    return [positions[0] for positions in best([one.rewards for one in scored], seeds)]
