"""The stage that makes the training pairs, from people's preferences or from the kept samples."""

import json
from array import array
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from rso_core.artifacts import Row, iterate_rows
from rso_core.errors import UserError
from rso_core.protocol import add_summaries
from rso_core.stages import Counter, Job, iterate_split
from rso_core.stages_objectives import SCALES
from rso_core.stages_sampling import PROMPT, TOKENS, policy_prompt, prompt_columns, prompt_seed

PAIRS = pa.schema(
    [
        ("index", pa.int32()),
        *PROMPT,
        ("chosen", pa.string()),
        ("rejected", pa.string()),
        ("chosen_token_ids", TOKENS),
        ("rejected_token_ids", TOKENS),
        ("chosen_index", pa.int32()),
        ("rejected_index", pa.int32()),
        ("probability", pa.float64()),
        ("row_id", pa.int64()),
    ]
)

_TIE = 0.5


def preference_pairs(job: Job) -> dict[str, Any]:
    """Make the training pairs: D_hf as it is, or the kept samples labelled by ρ."""
    return _direct_pairs(job) if job.config["pair_source"] == "direct" else _ranked_pairs(job)


def _direct_pairs(job: Job) -> dict[str, Any]:
    counts = {"pairs": 0, "excluded_rows": 0}
    if job.config.get("label") == "auto_sxs":
        pairs, labels = _labelled_anew(job, list(_direct_rows(job, counts)))
        _refuse_no_pairs(len(pairs), "the judge prefers neither response of any human pair; take a stronger judge")
        job.write(pairs, PAIRS)
        return {**counts, "byes": 0, **labels, "pairs": len(pairs)}
    job.write(_direct_rows(job, counts), PAIRS)
    _refuse_no_pairs(
        counts["pairs"],
        f"all {counts['excluded_rows']} human pairs have a response longer than {job.config['max_response_tokens']} "
        f"tokens; raise data.max_response_tokens",
    )
    return {**counts, "comparisons": 0, "dropped_ties": 0, "byes": 0}


def _direct_rows(job: Job, counts: dict[str, int]) -> Iterator[Row]:
    """Yield the human pairs one by one, and count them."""
    from rso_core.models import load_tokenizer
    from rso_core.templates import response_ids

    tokenizer, family = load_tokenizer(job.model_folder("policy"))
    # A prompt has one form: reference log-probs are kept by prompt id, and one text can be written as a turn or as many.
    prompts: dict[str, array[int]] = {}
    for row in iterate_split(job.files("preferences"), "train", job.config["split"]):
        chosen, rejected = (response_ids(tokenizer, row[side]) for side in ("chosen", "rejected"))
        if max(len(chosen), len(rejected)) > job.config["max_response_tokens"]:
            counts["excluded_rows"] += 1
            continue
        if row["prompt_id"] not in prompts:
            prompts[row["prompt_id"]] = array("i", policy_prompt(job, tokenizer, family, row["messages"]).ids)
        yield {
            **prompt_columns(row),
            "index": counts["pairs"],
            "prompt_token_ids": prompts[row["prompt_id"]],
            "chosen": row["chosen"],
            "rejected": row["rejected"],
            "chosen_token_ids": chosen,
            "rejected_token_ids": rejected,
            "chosen_index": None,
            "rejected_index": None,
            "probability": None,
            "row_id": row["row_id"],
        }
        counts["pairs"] += 1


def _labelled_anew(job: Job, pairs: Sequence[Row]) -> tuple[list[Row], dict[str, Any]]:
    """Return the pairs with the judge's label in the place of people's; those it cannot decide are dropped and counted."""
    labels = _JudgeLabels(job)
    probabilities = labels.decide([(pair["prompt"], pair["chosen"], pair["rejected"]) for pair in pairs])
    kept = [
        {**(pair if p > _TIE else _exchanged(pair)), "probability": max(p, 1 - p), "index": index}
        for index, (pair, p) in enumerate((pair, p) for pair, p in zip(pairs, probabilities, strict=True) if p != _TIE)
    ]
    turned = sum(p < _TIE for p in probabilities)
    counts = {"comparisons": len(pairs), "dropped_ties": len(pairs) - len(kept), "against_people": turned}
    return kept, counts | labels.counts


def _exchanged(pair: Row) -> Row:
    return {
        **pair,
        **{name.replace("rejected", "chosen"): pair[name] for name in ("rejected", "rejected_token_ids")},
        **{name.replace("chosen", "rejected"): pair[name] for name in ("chosen", "chosen_token_ids")},
    }


class _JudgeLabels:
    """Labels pairs by AutoSxS and counts what its answers were like. A tie and an unjudged pair are ½."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self.counts: dict[str, Any] = {}

    def decide(self, games: Sequence[tuple[str, str, str]]) -> list[float]:
        """Return for each (prompt, first, second) where the judge's answers stand between 0 (second) and 1 (first)."""
        from rso_core.judging import Comparison
        from rso_core.stages_judging import ask_judge

        judged = ask_judge(self._job, [Comparison(*game) for game in games])
        found = {
            "unjudged": sum(v.outcome == "unjudged" for v in judged.verdicts),
            "order_flips": sum(v.order_flip for v in judged.verdicts),
            "unparseable": sum(v.unparseable for v in judged.verdicts),
        }
        self.counts = add_summaries([self.counts, found, judged.counts()])
        return [(1 + v.average) / 2 if v.outcome in {"win", "loss"} else _TIE for v in judged.verdicts]


def _refuse_no_pairs(count: int, why: str) -> None:
    if not count:
        message = f"there are no training pairs: {why}"
        raise UserError(message)


def _ranked_pairs(job: Job) -> dict[str, Any]:
    from rso_core.preference_pairs import rank

    rows = list(iterate_rows(job.files("kept")))
    texts = [[c["text"] for c in row["kept"]] for row in rows]
    label = job.config.get("label")
    coin, labels = label == "coin_label", _JudgeLabels(job) if label == "auto_sxs" else None
    decide = labels.decide if labels else partial(play, job)
    ranked = rank(
        texts,
        ranking=job.config["ranking"],
        seeds=[prompt_seed(job.config["seed"], "pairs", row["prompt_id"]) for row in rows],
        prefer=lambda games: _toss(job, rows, games) if coin else decide(_triples(rows, games)),
    )
    pairs = [
        _pair(row, game, index) | ({"probability": None} if coin else {})
        for index, (row, game) in enumerate((rows[p], game) for p, games in enumerate(ranked.pairs) for game in games)
    ]
    _refuse_no_pairs(
        len(pairs), f"the kept samples of all {len(rows)} prompts are identical; raise sampling.temperature"
    )
    job.write(pairs, PAIRS)
    return {
        "pairs": len(pairs),
        "excluded_rows": 0,
        "comparisons": 0 if coin else ranked.comparisons,
        "dropped_ties": ranked.dropped_ties,
        "byes": ranked.byes,
        **(labels.counts if labels else {}),
    }


def _triples(rows: Sequence[Row], games: Sequence[tuple[int, int, int]]) -> list[tuple[str, str, str]]:
    """Return the texts of games (prompt, first, second)."""
    return [(rows[p]["prompt"], rows[p]["kept"][i]["text"], rows[p]["kept"][j]["text"]) for p, i, j in games]


def _pair(row: Row, game: Any, index: int) -> Row:
    chosen, rejected = row["kept"][game.chosen], row["kept"][game.rejected]
    return {
        **prompt_columns(row),
        "index": index,
        "prompt_token_ids": row["prompt_token_ids"],
        "chosen": chosen["text"],
        "rejected": rejected["text"],
        "chosen_token_ids": chosen["token_ids"],
        "rejected_token_ids": rejected["token_ids"],
        "chosen_index": chosen["sample_index"],
        "rejected_index": rejected["sample_index"],
        "probability": game.probability,
        "row_id": None,
    }


def _toss(job: Job, rows: Sequence[Row], games: Sequence[tuple[int, int, int]]) -> list[float]:
    """Decide games by a coin: 1 when the first wins, else 0. A prompt's tosses depend on the run's seed only."""
    seed = job.config["seed"]
    return [float(prompt_seed(seed, f"coin {i} {j}", rows[p]["prompt_id"]) & 1) for p, i, j in games]


def play(job: Job, triples: Sequence[tuple[str, str, str]]) -> list[float]:
    """Return the probability that first beats second of games (prompt, first, second).

    It is ρ, or with several objectives the average of their normalised logits.
    """
    if "weights" not in job.config:
        return _asked(job, "reward_model", triples)
    from rso_core.objectives import preference, weighted_average

    weights = job.config["weights"]
    scales = json.loads(job.files("combined", SCALES)[0].read_text(encoding="utf-8"))
    names = ["reward_model", *(f"reward_model_{number}" for number in range(1, len(weights)))]
    logits = [[preference(p) for p in _asked(job, name, triples)] for name in names]
    margins = np.clip(weighted_average(logits, weights, scales), -700, 700)  # exp of more is no float
    return [float(p) for p in 1 / (1 + np.exp(-margins))]


def _asked(job: Job, name: str, triples: Sequence[tuple[str, str, str]]) -> list[float]:
    """Return ρ(first beats second) of an input model, in one batched call."""
    from rso_core.reward_ranking import prefer

    counter = Counter(job, len(triples), "games")
    probabilities = prefer(
        job.model(name),
        triples,
        task=job.config["task"],
        max_length=job.config["max_length"],
        order_average=job.config["order_average"],
        batch_size=job.config["batch_size"],
        on_progress=counter.add,
    )
    return [float(p) for p in probabilities]
