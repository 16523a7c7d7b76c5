"""The stage that turns candidates into new SFT targets: RAFT's best candidate, ReST's candidates above a threshold."""

from collections.abc import Sequence
from itertools import repeat
from typing import Any

import pyarrow as pa

from rso_core.artifacts import Row, iterate_rows
from rso_core.errors import UserError
from rso_core.stages import Job
from rso_core.stages_pairs import play
from rso_core.stages_sampling import PROMPT, TOKENS, choices, prompt_columns, prompt_seed, rewards_of

TARGETS = pa.schema(
    [
        *PROMPT,
        ("target", pa.string()),
        ("target_token_ids", TOKENS),
        ("sample_index", pa.int32()),
        ("reward", pa.float64()),
    ]
)


def candidate_targets(job: Job) -> dict[str, Any]:
    """Choose among the candidates of each prompt what becomes a target of cross-entropy.

    `prompts` = prompts with targets + `skipped_prompts` (no candidate takes part, or all rewards are equal).
    """
    rows = list(iterate_rows(job.files("pool")))
    scores = list(iterate_rows(job.files("scores"))) if "scores" in job.spec.inputs else list(repeat(None, len(rows)))
    taking_part = [choices(row["candidates"], job.config["truncated"]) for row in rows]
    rewards = [
        None if score is None else rewards_of(row, score, part).tolist()
        for row, score, part in zip(rows, scores, taking_part, strict=True)
    ]
    chosen, counts = _chosen(job, rows, taking_part, rewards)
    found = [
        _target(row, row["candidates"][part[i]], None if values is None else values[i])
        for row, part, values, positions in zip(rows, taking_part, rewards, chosen, strict=True)
        for i in positions
    ]
    if not found:
        message = f"there are no targets: none of {len(rows)} prompts has candidates that differ; raise sampling.temperature or keep truncated candidates"
        raise UserError(message)
    job.write(found, TARGETS)
    return {
        "prompts": len(rows),
        "targets": len(found),
        "skipped_prompts": sum(not positions for positions in chosen),
        "excluded_truncated": sum(len(r["candidates"]) - len(p) for r, p in zip(rows, taking_part, strict=True)),
        **counts,
    }


def _chosen(
    job: Job, rows: Sequence[Row], taking_part: Sequence[Sequence[int]], rewards: Sequence[Any]
) -> tuple[Sequence[Sequence[int]], dict[str, int]]:
    """Return the positions chosen among those that take part, by prompt, and the comparisons made for it."""
    from rso_core.candidate_targets import above_threshold, best

    config = job.config
    if config["select"] == "above_threshold":
        return above_threshold(rewards, config["threshold"], config["normalize"]), {"comparisons": 0}
    seeds = [prompt_seed(config["seed"], "targets", row["prompt_id"]) for row in rows]
    if config["best_by"] == "pointwise":
        return best(rewards, seeds), {"comparisons": 0}
    return _tournament(job, rows, taking_part, seeds)


def _tournament(
    job: Job, rows: Sequence[Row], taking_part: Sequence[Sequence[int]], seeds: Sequence[int]
) -> tuple[Sequence[Sequence[int]], dict[str, int]]:
    from rso_core.preference_pairs import rank

    texts = [[row["candidates"][i]["text"] for i in part] for row, part in zip(rows, taking_part, strict=True)]

    def prefer(games: Sequence[tuple[int, int, int]]) -> list[float]:
        return play(job, [(rows[p]["prompt"], texts[p][i], texts[p][j]) for p, i, j in games])

    ranked = rank(texts, ranking="tournament_rank", seeds=seeds, prefer=prefer)
    return ranked.left, {"comparisons": ranked.comparisons, "dropped_ties": ranked.dropped_ties}


def _target(row: Row, candidate: Row, reward: float | None) -> Row:
    return {
        **prompt_columns(row),
        "prompt_token_ids": row["prompt_token_ids"],
        "target": candidate["text"],
        "target_token_ids": candidate["token_ids"],
        "sample_index": candidate["sample_index"],
        "reward": reward,
    }
