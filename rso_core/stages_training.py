"""The stages that change weights: SFT, the reward-ranking model, reference log-probs, fitting, selection."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from rso_core.artifacts import Row, fsync_tree, iterate_rows, read_table
from rso_core.errors import UserError
from rso_core.stages import Counter, Job, iterate_split, rows_of_split
from rso_core.stages_checkpoints import MEASURED
from rso_core.stages_evaluation import compare_with_target, outcome, respond
from rso_core.stages_sampling import policy_prompt
from rso_core.win_rate import win_rate as estimate_win_rate

if TYPE_CHECKING:
    from rso_core.sft import Examples
    from rso_core.token_pairs import TokenPairs

GROUPS_AT_ONCE = 16
REFERENCE = pa.schema(
    [("prompt_id", pa.string()), ("response_id", pa.string()), ("log_prob", pa.float64()), ("tokens", pa.int32())]
)


def _load_for_training(job: Job, name: str) -> Any:
    """Load a model of its own, since its weights will change."""
    from rso_core.models import load

    return load(job.model_folder(name), dtype=job.config["dtype"], dropout=job.config["training"]["dropout"])


def _adapted(job: Job, lm: Any) -> Any:
    from rso_core.models import add_lora

    if job.config["method"] == "full":
        return lm
    return add_lora(lm, rank=job.config["lora_rank"], alpha=job.config["lora_alpha"], seed=job.config["seed"])


def _save(job: Job, lm: Any, folder: Path) -> Any:
    """Write the model, adapters merged, and return it as it was written."""
    from rso_core.models import merge_lora, save

    whole = merge_lora(lm) if job.config["method"] == "lora" else lm
    save(whole, folder)
    return whole


def sft(job: Job) -> dict[str, Any]:
    """Fine-tune the base model on the training targets into π_sft."""
    if not job.config["training"]["enabled"]:
        shutil.copytree(job.model_folder("base"), job.staging / "model")
        job.log("SFT is off: the base model itself is π_sft")
        return {"examples": 0, "steps": 0, "excluded_rows": 0, "truncated_prompts": 0}
    from rso_core.sft import train_sft

    lm = _load_for_training(job, "base")
    examples, counts = _sft_examples(job, lm)
    lm = _adapted(job, lm)
    result = train_sft(
        lm,
        examples,
        job.config["training"],
        seed=job.config["seed"],
        checkpoint_dir=job.checkpoints,
        attempt=job.spec.attempt,
        emit=job.emit,
    )
    _save(job, lm, job.staging / "model")
    return {**counts, "examples": len(examples), **result}


def _sft_examples(job: Job, lm: Any) -> tuple["Examples", dict[str, int]]:
    """Return the training rows as token ids, which lie in files of the staging folder, and what was done to them."""
    from rso_core.sft import Examples
    from rso_core.templates import response_ids
    from rso_core.token_rows import TokenWriter

    prompts, targets = TokenWriter(job.staging), TokenWriter(job.staging)
    counts = {"excluded_rows": 0, "truncated_prompts": 0}
    for row in iterate_split(job.files("sft"), "train", job.config["split"]):
        target = response_ids(lm.tokenizer, row["target"])
        if len(target) > job.config["max_response_tokens"]:
            counts["excluded_rows"] += 1
            continue
        prompt = policy_prompt(job, lm.tokenizer, lm.family, row["messages"])
        counts["truncated_prompts"] += prompt.truncated
        prompts.append(prompt.ids)
        targets.append(target)
    examples = Examples(prompts.rows(), targets.rows())
    if not examples:
        message = (
            f"no SFT example is left: all {counts['excluded_rows']} training targets are longer than "
            f"{job.config['max_response_tokens']} tokens; raise data.max_response_tokens"
        )
        raise UserError(message)
    return examples, counts


def reward_training(job: Job) -> dict[str, Any]:
    """Train the pairwise text-to-text reward-ranking model ρ_ψ on D_hf and measure it on held-out pairs."""
    from rso_core.reward_accuracy import heldout_accuracy
    from rso_core.reward_training import train_reward

    lm = _adapted(job, _load_for_training(job, "base"))
    files = job.files("preferences")
    settings = {"task": job.config["task"], "max_length": job.config["max_length"]}
    result = train_reward(
        lm,
        rows_of_split(files, "train", job.config["split"]),
        job.config["training"],
        seed=job.config["seed"],
        checkpoint_dir=job.checkpoints,
        attempt=job.spec.attempt,
        emit=job.emit,
        **settings,
    )
    lm = _save(job, lm, job.staging / "model")
    heldout = rows_of_split(files, "test", job.config["split"])
    counter = Counter(job, len(heldout), "held-out pairs")
    measured = heldout_accuracy(
        lm,
        heldout,
        order_average=job.config["order_average"],
        batch_size=job.config["batch_size"],
        seed=job.config["seed"],
        on_progress=counter.add,
        **settings,
    )
    return {**result, **measured}


def reference_log_probs(job: Job) -> dict[str, Any]:
    """Compute log π_sft(y|x) once for each distinct response of the pairs."""
    from rso_core.token_pairs import TokenPairs

    pairs = TokenPairs.of_files(job.files("pairs"))
    prompts = [len(group.responses) for _, group in pairs.by_prompt()]
    job.write(_reference_rows(job, pairs, Counter(job, sum(prompts), "responses")), REFERENCE)
    return {"responses": sum(prompts), "prompts": len(prompts)}


def _reference_rows(job: Job, pairs: "TokenPairs", counter: Counter) -> Iterator[Row]:
    import torch

    from rso_core.grouped_forward import response_log_probs
    from rso_core.token_pairs import response_id

    lm, prompts = job.model("policy"), pairs.by_prompt()
    while block := list(islice(prompts, GROUPS_AT_ONCE)):
        with torch.inference_mode():
            # A pair of the fit is two responses; its memory without gradients is no concern.
            values = response_log_probs(lm, [group for _, group in block], batch_size=2 * job.config["batch_size"])
        for (members, group), log_probs in zip(block, values, strict=True):
            tokens = sum(len(ids) for ids in group.responses) + len(group.prompt_ids)
            counter.add(len(group.responses), tokens)
            prompt = pairs.prompt_id(members[0])
            for ids, value in zip(group.responses, log_probs.tolist(), strict=True):
                yield {"prompt_id": prompt, "response_id": response_id(ids), "log_prob": value, "tokens": len(ids)}


def policy_fitting(job: Job) -> dict[str, Any]:
    """Fit π_θ on pairs (eq. 1, 8-10) or on chosen candidates (cross-entropy); leave checkpoints to select from."""
    from rso_core.policy_training import fit_policy
    from rso_core.sft import fit_on_targets

    loss = job.config["training"]["loss"]
    items, counts = _targets_to_fit(job) if loss == "cross_entropy" else _pairs_to_fit(job)
    lm = _adapted(job, _load_for_training(job, "policy"))
    fit: Any = fit_on_targets if loss == "cross_entropy" else fit_policy
    result: dict[str, Any] = fit(
        lm,
        items,
        job.config["training"],
        seed=job.config["seed"],
        checkpoint_dir=job.checkpoints,
        attempt=job.spec.attempt,
        emit=job.emit,
        save_snapshot=lambda step: _save_snapshot(job, lm, step),
    )
    for folder in sorted((job.checkpoints / "snapshots").iterdir()):
        shutil.copytree(folder, job.staging / "checkpoints" / folder.name)
    return {**counts, **result}


def _targets_to_fit(job: Job) -> tuple["Examples", dict[str, int]]:
    from rso_core.sft import Examples
    from rso_core.token_rows import TokenRows

    table = read_table(job.files("targets"), ("prompt_token_ids", "target_token_ids"))
    examples = Examples(*(TokenRows.of_column(table[name]) for name in table.column_names))
    return examples, {"targets": len(examples)}


def _pairs_to_fit(job: Job) -> tuple["TokenPairs", dict[str, int]]:
    from rso_core.token_pairs import TokenPairs

    pairs = TokenPairs.of_files(job.files("pairs")).with_references(job.files("reference"))
    counts = {"pairs": len(pairs)}
    if job.config["training"]["loss"] == "slic":
        pairs, counts["pulled_to_chosen"] = _with_targets(job, pairs)
    return pairs, counts


def _with_targets(job: Job, pairs: "TokenPairs") -> tuple["TokenPairs", int]:
    """Return the pairs with y_ref of slic's regulariser, and how many take the chosen response for want of a target.

    y_ref is the SFT target of the pair's prompt, unless it is longer than responses may be.
    """
    from rso_core.models import load_tokenizer
    from rso_core.templates import response_ids
    from rso_core.token_rows import TokenWriter

    tokenizer, _ = load_tokenizer(job.model_folder("policy"))
    wanted = set(pairs.prompt_ids.to_pylist())
    targets: dict[str, list[int]] = {}
    for row in iterate_rows(job.files("sft"), ("prompt_id", "target")):
        if row["prompt_id"] in wanted and row["prompt_id"] not in targets:
            ids = response_ids(tokenizer, row["target"])
            if len(ids) <= job.config["max_response_tokens"]:
                targets[row["prompt_id"]] = ids
    writer, missing = TokenWriter(job.staging), 0
    for index in range(len(pairs)):
        found = targets.get(pairs.prompt_id(index))
        missing += found is None
        writer.append(found or pairs.chosen[index])
    return replace(pairs, targets=writer.rows()), missing


def _save_snapshot(job: Job, lm: Any, step: int) -> None:
    """Write the weights of a step beside the checkpoints, so that a resumed fit finds them; whole or not at all."""
    import copy

    target = job.checkpoints / "snapshots" / f"step-{step:06d}"
    if target.exists():
        return
    temporary = job.checkpoints / f"snapshot-{step:06d}.a{job.spec.attempt}.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    # Merging adapters changes the model in place, so a snapshot in the middle of a fit merges a copy.
    _save(job, copy.deepcopy(lm) if job.config["method"] == "lora" else lm, temporary)
    target.parent.mkdir(exist_ok=True)
    fsync_tree(temporary)
    temporary.rename(target)


def checkpoint_selection(job: Job) -> dict[str, Any]:
    """Keep the checkpoint with the highest proxy win rate on validation prompts (the earliest of equals)."""
    folders = sorted((job.store.path(job.spec.inputs["checkpoints"]) / "checkpoints").iterdir())
    measured: list[dict[str, Any]] = []
    judged: list[Row] = []
    if job.config["select_by"] == "last" or len(folders) == 1:
        best = len(folders) - 1
    else:
        judged = _judged(job, folders)
        measured = [_measured(job, _step(folder), judged) for folder in folders]
        best = max(range(len(folders)), key=lambda i: (measured[i]["win_rate"]["value"], -i))
    job.write(judged, MEASURED)
    shutil.copytree(folders[best], job.staging / "model")
    (job.staging / "selection.json").write_text(json.dumps(measured, sort_keys=True), encoding="utf-8")
    return {"selected_step": _step(folders[best]), "checkpoints": measured}


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _judged(job: Job, folders: Sequence[Path]) -> list[Row]:
    """Return the responses of every checkpoint with their probabilities to beat the SFT target.

    All are compared at once: those of a prompt have its context and its target in common, which are read once.
    """
    rows: list[Row] = []
    for folder in folders:
        lm = job.models.load(folder, job.spec.inputs["checkpoints"], job.config["dtype"])
        rows += [{"step": _step(folder), **row} for row in respond(job, lm)]
    reward = job.config["reward"]
    probabilities = compare_with_target(job, job.model("reward_model", dtype=reward["dtype"]), rows, reward)
    return [row | {"probability": p} for row, p in zip(rows, probabilities, strict=True)]


def _measured(job: Job, step: int, judged: Sequence[Row]) -> dict[str, Any]:
    """Return the proxy win rate of a checkpoint."""
    from rso_core.protocol import Metrics

    rows = [row for row in judged if row["step"] == step]
    wins, roots = [outcome(row["probability"]) for row in rows], [row["root"] for row in rows]
    rate = estimate_win_rate(wins, roots, draws=1000, seed=job.config["seed"]).as_dict()
    job.emit(Metrics(step=step, values={"proxy_win_rate": rate["value"]}))
    return {"step": step, "win_rate": rate}
