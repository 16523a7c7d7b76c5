"""Runs over small made-up data, with stages finished by hand: every artifact has the layout that the stages write."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from django.test import Client

from rso_core.artifacts import ROWS, write_rows
from rso_core.config import (
    DataConfig,
    FittingConfig,
    LossName,
    ModelConfig,
    PairsConfig,
    PairSource,
    RunConfig,
    SamplingConfig,
)
from rso_core.rejection_sampling import sample
from rso_core.stages_evaluation import WINS
from rso_core.stages_pairs import PAIRS
from rso_core.stages_sampling import KEPT, POOL, SCORES
from rso_core.vocabulary import COLUMNS, DatasetKind, Message, conversation_root, prompt_id
from webapp.accounts.models import User
from webapp.runs import jobs, services
from webapp.runs.artifacts import store
from webapp.runs.models import Dataset, LogLine, MetricPoint, RegisteredModel, Run, Stage, Status

PLACES = ("the north gate", "a small harbour", "the old library", "our street", "the second floor")
THINGS = ("a lost key", "the broken heater", "a borrowed bicycle", "the noisy neighbour", "an unpaid bill")
CANDIDATES, PER_SHARD = 16, 40


def post(number: int) -> str:
    place, thing = PLACES[number % 5], THINGS[number // 5 % 5]
    return f"Post {number}: last week it was about {thing} at {place}, and I do not know whom to ask about it any more."


def summary_text(number: int, quality: int) -> str:
    thing = THINGS[number // 5 % 5]
    return (
        "Somebody asks.",
        f"It is about {thing}.",
        f"The author asks whom to turn to about {thing} at {PLACES[number % 5]}.",
    )[quality % 3] + (f" ({quality})" if quality > 2 else "")


def _prompt_columns(number: int) -> dict[str, Any]:
    messages: list[Message] = [{"role": "user", "content": post(number)}]
    return {
        "row_id": number + 1, "prompt_id": prompt_id(post(number)), "root": conversation_root(messages),
        "prompt": post(number), "messages": json.dumps(messages), "meta": "{}",
    }  # fmt: skip


def _commit(write: Callable[[Path], Any], kind: str, label: object = "") -> str:
    """Commit what `write` writes. What has a label is written once in a store."""
    key = (store().url, kind, label)
    if label and key in _written and store().exists(_written[key]):
        return _written[key]
    _written[key] = _committed(write, kind)
    return _written[key]


_written: dict[tuple[str, str, object], str] = {}


def _committed(write: Callable[[Path], Any], kind: str) -> str:
    staging = store().staging()
    write(staging)
    return store().commit(staging, kind=kind)


def _dataset(kind: DatasetKind, prompts: int) -> str:
    schema = pa.schema([(name, pa.int64() if name == "row_id" else pa.string()) for name in COLUMNS[kind]])
    own: dict[str, Callable[[int], str]] = {
        "target": lambda n: summary_text(n, 1),
        "chosen": lambda n: summary_text(n, 2),
        "rejected": lambda n: summary_text(n, 0),
    }
    rows = [
        {**_prompt_columns(n), **{name: make(n) for name, make in own.items() if name in schema.names}}
        for n in range(prompts)
    ]
    return _commit(lambda folder: write_rows(folder / ROWS, rows, schema), "import_dataset", (kind, prompts))


def signed_in(user: User) -> Client:
    """Return a client in which somebody is signed in."""
    client = Client()
    client.force_login(user)
    return client


def imported(owner: User, *, prompts: int = 120, shared: bool = True) -> None:
    """Register the datasets `preferences` and `targets` and the model `tiny` as if they had been imported."""
    counts = {"rows_in": prompts, "rows_kept": prompts}
    kinds: dict[str, DatasetKind] = {"preferences": "preference", "targets": "sft"}
    for name, kind in kinds.items():
        Dataset.objects.create(
            owner=owner,
            name=name,
            kind=kind,
            task="summarization",
            digest=_dataset(kind, prompts),
            shared=shared,
            **counts,
        )
    digest = _commit(model_folder, "import_model", "model")
    RegisteredModel.objects.create(owner=owner, name="tiny", family="causal", digest=digest, shared=shared)


def model_folder(staging: Path) -> None:
    """Write something in the place of a model's files."""
    (staging / "model").mkdir()
    (staging / "model" / "config.json").write_text('{"model_type": "tiny"}', encoding="utf-8")
    (staging / "model" / "model.safetensors").write_bytes(random.Random(0).randbytes(3000))  # noqa: S311 - not a secret


def config_of(
    name: str = "First run",
    *,
    seed: int = 0,
    pair_source: PairSource = "rso_sample_rank",
    loss: LossName = "sigmoid_norm",
) -> RunConfig:
    return RunConfig(
        name=name,
        task="summarization",
        seed=seed,
        data=DataConfig(preferences="preferences", sft="targets"),
        model=ModelConfig(base="tiny"),
        sampling=SamplingConfig(num_candidates=CANDIDATES, prompts_per_shard=PER_SHARD),
        pairs=PairsConfig(pair_source=pair_source),
        fitting=FittingConfig(loss=loss),
    )


def launched(owner: User, config: RunConfig | None = None) -> Run:
    """Return a run of which nothing but the length profile is done."""
    config = config or config_of()
    plan, _, _ = services.preview_plan(config=config, user=owner)
    finish_profile(services.request_profile(plan=plan))
    return services.launch_run(config=config, user=owner)


def finish_profile(stage: Stage) -> None:
    finish(
        stage,
        _commit(lambda folder: (folder / "profile.json").write_text(json.dumps(PROFILE)), "length_profile", "profile"),
    )


def finish(stage: Stage, digest: str, **summary: Any) -> None:
    """Finish every shard of a stage with the same artifact, unless it is done."""
    while (claim := jobs.claim(stage_id=stage.pk, worker="gpu@here")) is not None:
        jobs.finish_shard(claim, digest=digest, summary=summary)


def finish_run(run: Run, *, until: str = "") -> Run:
    """Finish the stages of a run one after the other, up to but not including `until`."""
    for item in run.run_stages.select_related("stage").order_by("order"):
        if item.key == until:
            break
        if item.stage.status != Status.DONE:
            _finish_stage(item.key, item.stage, run)
    run.refresh_from_db()
    return run


def _finish_stage(key: str, stage: Stage, run: Run) -> None:
    if key in {"sampling", "scoring"}:
        return _finish_shards(key, stage)
    trained = {"sft", "reward_training", "policy_fitting"}
    if key in trained:
        _curves(stage, key)
    digest, summary = _MADE[key](run) if key in _MADE else (_commit(model_folder, key, "model"), {})
    return finish(stage, digest, **summary)


def _curves(stage: Stage, key: str) -> None:
    draw = random.Random(key)  # noqa: S311 - not a secret
    steps = range(1, 241)
    values = [{"loss": 0.69 * 0.994**step + draw.gauss(0, 0.02), "gradient_norm": 1 + draw.random()} for step in steps]
    for step, value in enumerate(values, start=1):
        if key != "sft":
            accuracy = min(1.0, 0.5 + 0.0015 * step + draw.gauss(0, 0.03))
            value.update(margin=0.01 * step + draw.gauss(0, 0.1), accuracy=accuracy)
        if key == "policy_fitting":
            value.update(chosen_log_ratio=0.02 * step, rejected_log_ratio=-0.03 * step)
    MetricPoint.objects.bulk_create(
        MetricPoint(stage=stage, step=step, values=value) for step, value in zip(steps, values, strict=True)
    )
    LogLine.objects.create(stage=stage, message=f"{len(values)} steps of 32, learning rate 1e-05")


def pool_rows(shard: int) -> list[dict[str, Any]]:
    rows = []
    for number in range(shard * PER_SHARD, (shard + 1) * PER_SHARD):
        columns = {name: _prompt_columns(number)[name] for name in ("prompt_id", "prompt", "messages")}
        texts = [summary_text(number, index % 9) for index in range(CANDIDATES + 1)]
        pool = [
            {"sample_index": i, "text": text, "token_ids": [i, 1, 2], "truncated": i == 5}
            for i, text in enumerate(texts)
        ]
        baseline = {**pool.pop(), "sample_index": -1}
        rows.append({**columns, "prompt_token_ids": [1], "candidates": pool, "baseline": baseline})
    return rows


def rewards_of(row: dict[str, Any]) -> list[float]:
    draw = np.random.default_rng(int(row["prompt_id"], 16))
    return [float(value) for value in draw.normal(0.3, 0.8, CANDIDATES)]


def _finish_shards(key: str, stage: Stage) -> None:
    while (claim := jobs.claim(stage_id=stage.pk, worker="gpu@here")) is not None:
        rows = pool_rows(claim.spec.shard_index)
        if key == "scoring":
            zeros = [0.0] * CANDIDATES
            lists = {"logit_first": zeros, "logit_second": zeros, "outside_mass": zeros}
            rows = [{"prompt_id": row["prompt_id"], "rewards": rewards_of(row), **lists} for row in rows]
        schema, decodes = (SCORES if key == "scoring" else POOL), len(rows) * CANDIDATES
        label = ("part", claim.spec.shard_index)
        digest = _commit(lambda folder, rows=rows, schema=schema: write_rows(folder / ROWS, rows, schema), key, label)  # type: ignore[misc]
        jobs.finish_shard(
            claim,
            digest=digest,
            summary={
                "prompts": len(rows),
                "decodes": decodes,
                "baseline_decodes": len(rows),
                "truncated": len(rows),
                "comparisons": decodes,
            },
        )


def kept_row(row: dict[str, Any]) -> dict[str, Any]:
    rewards = rewards_of(row)
    found = sample(np.array(rewards), num_samples=8, beta=0.5, seed=1, prompt_id=row["prompt_id"])
    kept = [row["candidates"][index] for index in found.indices]
    return {
        **{name: row[name] for name in ("prompt_id", "prompt", "messages", "prompt_token_ids")},
        "kept": kept, "rounds": list(found.rounds), "kept_rewards": [rewards[index] for index in found.indices],
        "observed": found.observed, "expected": found.expected, "theorem1": found.theorem1, "ess": found.ess,
        "trials": found.trials, "accepted": 8, "num_rounds": found.num_rounds, "distinct": len({c["text"] for c in kept}),
        "short": found.short,
    }  # fmt: skip


def _shards(run: Run) -> int:
    return int(run.run_stages.get(key="sampling").stage.shard_count)


def _kept(run: Run) -> tuple[str, dict[str, Any]]:
    rows = [kept_row(row) for shard in range(_shards(run)) for row in pool_rows(shard)]
    digest = _commit(lambda folder: write_rows(folder / ROWS, rows, KEPT), "rejection_sampling", len(rows))
    trials = sum(row["trials"] for row in rows)
    return digest, {
        "prompts": len(rows), "trials": trials, "accepted": 8 * len(rows), "observed_acceptance": 8 * len(rows) / trials,
        "expected_acceptance": sum(row["expected"] * row["trials"] for row in rows) / trials, "theorem1_acceptance": 0.231,
        "mean_ess": 6.4, "mean_rounds": 2.9, "mean_distinct": 5.1, "short_prompts": 0,
    }  # fmt: skip


def _pair(index: int, row: dict[str, Any], chosen: dict[str, Any], rejected: dict[str, Any]) -> dict[str, Any]:
    return {
        **{name: row[name] for name in ("prompt_id", "prompt", "messages")}, "prompt_token_ids": [1], "index": index,
        "chosen": chosen["text"], "rejected": rejected["text"], "chosen_token_ids": [1], "rejected_token_ids": [2],
        "chosen_index": chosen.get("sample_index"), "rejected_index": rejected.get("sample_index"),
        "probability": chosen.get("probability"), "row_id": row.get("row_id"),
    }  # fmt: skip


def _pairs(run: Run) -> tuple[str, dict[str, Any]]:
    if run.config["pairs"]["pair_source"] == "direct":
        rows = [_prompt_columns(n) for n in range(60)]
        made = [_pair(n, row, {"text": summary_text(n, 2)}, {"text": summary_text(n, 0)}) for n, row in enumerate(rows)]
    else:
        kept = [kept_row(row) for shard in range(_shards(run)) for row in pool_rows(shard)]
        games = [(row, row["kept"][i], row["kept"][i + 1]) for row in kept for i in range(0, 8, 2)]
        made = [_pair(i, row, {**first, "probability": 0.71}, second) for i, (row, first, second) in enumerate(games)]
        made = [{**pair, "row_id": None} for pair in made]
    digest = _commit(
        lambda folder: write_rows(folder / ROWS, made, PAIRS),
        "preference_pairs",
        (run.config["pairs"]["pair_source"], len(made)),
    )
    return digest, {"pairs": len(made), "excluded_rows": 0, "dropped_ties": 3, "comparisons": len(made)}


def rate(value: float, half: float, n: int = 600) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half, "n": n}


REPORT = {
    "sft": {"proxy": rate(0.512, 0.04), "gold": rate(0.498, 0.041)},
    "policy": {"proxy": rate(0.781, 0.033), "gold": rate(0.512, 0.04)},
    "difference": {"proxy": rate(0.269, 0.045), "gold": rate(0.014, 0.05)},
    "length_change": {"mean_chars_sft": 41.0, "mean_chars_policy": 58.5},
}


VERDICTS = {
    "outcomes": {"win": 31, "tie": 12, "loss": 15, "unjudged": 2}, "prompts": 60, "samples": 480, "unparseable": 19, "order_flips": 4,
    "first_shown_chosen": 250, "second_shown_chosen": 180, "prompt_tokens": 300_000, "completion_tokens": 20_000,
    "answers_cached": 0, "answers_cut_off": 3, "other_reading": rate(0.6, 0.05), "wins_over_all": rate(0.5, 0.05),
}  # fmt: skip


def _judge_accuracy(_: Run) -> tuple[str, dict[str, Any]]:
    summary = {**VERDICTS, "accuracy": rate(0.61, 0.05), "better_than_chance": True}
    return _commit(model_folder, "judge_accuracy", "judge"), summary


def _auto_sxs(_: Run) -> tuple[str, dict[str, Any]]:
    return _commit(model_folder, "auto_sxs", "judge"), {**VERDICTS, "score": rate(0.63, 0.05)}


def _judged_report() -> dict[str, Any]:
    found = {part: {**REPORT[part], "auto_sxs": rate(0.63, 0.05)} for part in ("sft", "policy")}
    judge = {"accuracy": rate(0.61, 0.05), "better_than_chance": True}
    return {**REPORT, **found, "difference": {**REPORT["difference"], "auto_sxs": rate(0.1, 0.05)}, "judge": judge}


def _report(run: Run) -> tuple[str, dict[str, Any]]:
    sides = [
        {
            "prompt": post(n), "target": summary_text(n, 1), "sft": summary_text(n, 0), "policy": summary_text(n, 2),
            "probability_sft": 0.41, "probability_policy": 0.83,
        }
        for n in range(5)
    ]  # fmt: skip
    summary = REPORT if run.config["judge"]["backend"] == "none" else _judged_report()
    text = json.dumps({**summary, "side_by_sides": sides})
    return _commit(
        lambda folder: (folder / "report.json").write_text(text, encoding="utf-8"), "report", "report"
    ), summary


def _reward(_: Run) -> tuple[str, dict[str, Any]]:
    measured: dict[str, Any] = {
        "accuracy": rate(0.723, 0.03), "longer_wins": rate(0.61, 0.03), "first_shown_wins": rate(0.5, 0.03),
        "calibration": [{"confidence": 0.55 + i / 10, "accuracy": rate(0.53 + i / 12, 0.08, 60)} for i in range(4)],
    }  # fmt: skip
    return _commit(model_folder, "reward_training", "model"), measured


def _selection(_: Run) -> tuple[str, dict[str, Any]]:
    checkpoints = [{"step": 120, "win_rate": rate(0.7, 0.05)}, {"step": 240, "win_rate": rate(0.76, 0.05)}]
    return _commit(model_folder, "checkpoint_selection", "model"), {"selected_step": 240, "checkpoints": checkpoints}


def _figures(_: Run) -> tuple[str, dict[str, Any]]:
    kl = {"value": 3.2, "low": 2.7, "high": 3.9, "n": 64}
    checkpoints = [{"step": step, "kl": kl, "proxy": rate(0.7, 0.05), "gold": None} for step in (120, 240)]
    return _commit(model_folder, "checkpoint_figures", "model"), {"checkpoints": checkpoints}


WON = {"direct": 0.6, "sft_sample_rank": 0.65, "rso_sample_rank": 0.9}  # a policy's win rate by its source of pairs


def _wins(share: float, seed: int) -> list[dict[str, Any]]:
    """Return what `win_rate` measures of 60 prompts, of which about `share` are won."""
    draw = random.Random(seed)  # noqa: S311 - not a secret
    rows = []
    for number in range(60):
        columns = {name: _prompt_columns(number)[name] for name in ("prompt_id", "root", "prompt")}
        texts = {"target": summary_text(number, 1), "response": summary_text(number, 2)}
        probability = share if draw.random() < share else 1 - share
        rows.append(
            {**columns, **texts, "probability": probability, "win": float(probability > 0.5), "response_tokens": 9}
        )
    return rows


def _win_rate(share: float, run: Run) -> tuple[str, dict[str, Any]]:
    rows = _wins(share, run.config["seed"])
    digest = _commit(lambda folder: write_rows(folder / ROWS, rows, WINS), "win_rate", (share, run.config["seed"]))
    won = sum(row["win"] for row in rows) / len(rows)
    return digest, {"proxy": rate(won, 0.04), "gold": None, "truncated": 4, "mean_response_chars": 58.5}


def _sft_win_rate(run: Run) -> tuple[str, dict[str, Any]]:
    return _win_rate(0.5, run)[0], {"proxy": rate(0.512, 0.04), "gold": None, "truncated": 4}


def _policy_win_rate(run: Run) -> tuple[str, dict[str, Any]]:
    return _win_rate(WON[run.config["pairs"]["pair_source"]], run)


_MADE: dict[str, Callable[[Run], tuple[str, dict[str, Any]]]] = {
    "reward_training": _reward,
    "gold_reward_training": _reward,
    "rejection_sampling": _kept,
    "pairs": _pairs,
    "checkpoint_selection": _selection,
    "checkpoint_figures": _figures,
    "win_rate_sft": _sft_win_rate,
    "win_rate_policy": _policy_win_rate,
    "report": _report,
    "auto_sxs_sft": _auto_sxs,
    "auto_sxs_policy": _auto_sxs,
    "judge_accuracy": _judge_accuracy,
}


def _histogram(middle: int) -> dict[str, Any]:
    counts = [max(0, 40 - 3 * abs(i - middle)) for i in range(40)]
    return {
        "edges": [8 * i for i in range(41)], "counts": counts, "total": sum(counts), "mean": 8.0 * middle, "median": 8 * middle,
        "p95": 8 * middle + 60, "max": 8 * middle + 100,
    }  # fmt: skip


def _example(part: str, words: str) -> list[dict[str, Any]]:
    return [
        {"text": f"{word} ", "id": i, "special": word.startswith("<"), "part": part}
        for i, word in enumerate(words.split())
    ]


_COUNTS = {
    "rows": 120,
    "truncated_prompts": 3,
    "excluded_rows": 9,
    "reward_truncated": 0,
    "reward_excluded": 0,
    "escaped_markers": 1,
}
PROFILE: dict[str, Any] = {
    "datasets": {
        "sft": {**_COUNTS, "histograms": {"prompt": _histogram(20), "target": _histogram(6)}},
        "preferences": {**_COUNTS, "histograms": {"prompt": _histogram(20), "chosen": _histogram(7), "rejected": _histogram(5)}},
    },
    "example": {
        "policy": {"tokens": [*_example("prompt", f"<s> {post(1)} TL;DR:"), *_example("response", f"{summary_text(1, 2)} </s>")],
                   "truncated": False, "row_id": 2},
        "reward": {"tokens": _example("reward", f"<s> [CONTEXT] {post(1)} [SUMMARY A] … [SUMMARY B] … </s>"), "truncated": True,
                   "escaped": 0, "row_id": 2},
    },
    "limits": {"task": "summarization", "max_prompt_tokens": 512, "max_response_tokens": 128, "max_length": 1024},
    "template": "plain",
}  # fmt: skip
