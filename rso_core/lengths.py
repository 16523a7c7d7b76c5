"""How long prompts and responses are in tokens, what the limits of a run would do to them, and one example.

Every row is counted, none is sampled. Responses are tokenised in batches; a reward input is tokenised only where
the lengths of its parts leave open whether it fits.
"""

import json
from collections import Counter as Tally
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from rso_core.artifacts import Row, iterate_rows, read_table
from rso_core.run_data import assign_split
from rso_core.stages import Counter, Job
from rso_core.templates import (
    ResponsesTooLongError,
    defuse,
    escape_markers,
    label_ids,
    policy_prompt_ids,
    response_ids,
    reward_input_ids,
    template_in_use,
)
from rso_core.vocabulary import SPLITS, Family

BINS = 40
_BATCH = 512
_UNLIMITED = 1 << 40
# Tokens of the reward template, and what joining texts can change at their seams. Rows that come this close are tokenised.
_SLACK = 96
_SLACK_PER_MESSAGE = 8
_RESPONSES = {"sft": ("target",), "preferences": ("chosen", "rejected"), "prompts": ()}
_COUNTS = (
    "rows", "truncated_prompts", "excluded_rows", "reward_truncated", "reward_excluded", "escaped_markers",
)  # fmt: skip


def response_lengths(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """Return the length of `templates.response_ids` of each text (end-of-sequence included), tokenised as one batch."""
    safe = [defuse(tokenizer, text) for text in texts]
    if not safe:
        return []
    encoded = tokenizer(safe, add_special_tokens=False, split_special_tokens=True, verbose=False)
    return [len(ids) + 1 for ids in encoded["input_ids"]]


def histogram(lengths: Mapping[int, int]) -> dict[str, Any]:
    """Return {length: count} as at most `BINS` bins of equal width, with mean, median, 95th percentile and maximum.

    Bin i holds the lengths from `edges[i]` up to, but not including, `edges[i + 1]`.
    """
    if not lengths:
        return {"edges": [], "counts": [], "total": 0, "mean": None, "median": None, "p95": None, "max": None}
    values = np.array(sorted(lengths))
    counts = np.array([lengths[int(value)] for value in values])
    width = max(1, -(-(int(values[-1]) + 1) // BINS))
    bins = int(values[-1]) // width + 1
    summed = np.bincount(values // width, weights=counts, minlength=bins)
    cumulated, total = np.cumsum(counts), int(counts.sum())
    return {
        "edges": [width * i for i in range(bins + 1)],
        "counts": [int(count) for count in summed],
        "total": total,
        "mean": float((values * counts).sum() / total),
        "median": int(values[np.searchsorted(cumulated, 0.5 * total)]),
        "p95": int(values[np.searchsorted(cumulated, 0.95 * total)]),
        "max": int(values[-1]),
    }


class Profiler:
    """Measures datasets under one tokenizer and the limits in `config` (the stage's configuration)."""

    def __init__(self, tokenizer: Any, family: Family, config: Mapping[str, Any]) -> None:
        self._tokenizer, self._family, self._config = tokenizer, family, config
        self._prompt_lengths: dict[str, int] = {}
        self._long_targets = 0

    def profile(self, files: Mapping[str, Sequence[Path]], job: Job) -> dict[str, Any]:
        """Return counts by split and histograms of each dataset (by input name), the limits, and an example.

        Raises UserError when the tokenizer cannot write the labels or the template refuses a conversation.
        """
        from rso_core.models import tokenizer_digest

        if "preferences" in files:
            label_ids(self._tokenizer, self._family)
        counter = Counter(job, sum(read_table(paths, ["row_id"]).num_rows for paths in files.values()), "rows")
        limits = ("task", "max_prompt_tokens", "max_response_tokens", "max_length")
        datasets = {name: self._dataset(name, paths, counter) for name, paths in files.items()}
        self._warn_of_long_targets(job)
        return {
            "datasets": datasets,
            "example": self._example(files),
            "limits": {name: self._config[name] for name in limits},
            "template": template_in_use(
                self._tokenizer, self._family, self._config["task"], self._config["prompt_template"]
            ),
            "tokenizer_digest": tokenizer_digest(self._tokenizer),
        }

    def _dataset(self, name: str, paths: Sequence[Path], counter: Counter) -> dict[str, Any]:
        responses = _RESPONSES[name]
        by_split = {split: dict.fromkeys(_COUNTS, 0) for split in SPLITS}
        lengths: dict[str, Tally[int]] = {column: Tally() for column in ("prompt", *responses)}
        columns = ("prompt_id", "root", "prompt", "messages", *responses)
        for batch in _batches(iterate_rows(paths, columns)):
            measured = [response_lengths(self._tokenizer, [row[column] for row in batch]) for column in responses]
            tokens = 0
            for index, row in enumerate(batch):
                sizes = [column[index] for column in measured]
                prompt = self._prompt_length(row)
                split = assign_split(row["root"], self._config["split"])
                self._count(by_split[split], row, prompt, sizes)
                self._long_targets += name == "sft" and split != "train" and self._is_long(sizes[0])
                for column, size in zip(lengths, (prompt, *sizes), strict=True):
                    lengths[column][size] += 1
                tokens += prompt + sum(sizes)
            counter.add(len(batch), tokens)
        total = {key: sum(counts[key] for counts in by_split.values()) for key in _COUNTS}
        return {
            **total,
            "splits": by_split,
            "histograms": {column: histogram(tally) for column, tally in lengths.items()},
        }

    def _warn_of_long_targets(self, job: Job) -> None:
        """Say before any training what would otherwise stop the run after it: every win rate needs its target whole."""
        if self._long_targets:
            job.log(
                f"{self._long_targets} validation or test targets may not fit into reward.max_length = "
                f"{self._config['max_length']} beside a response of data.max_response_tokens = "
                f"{self._config['max_response_tokens']}; one that does not stops the run at its win rate. Raise "
                f"reward.max_length now (a later change trains the reward model again), or import shorter targets",
                warning=True,
            )

    def _prompt_length(self, row: Row) -> int:
        known = self._prompt_lengths.get(row["prompt_id"])
        if known is None:
            known = self._prompt_lengths[row["prompt_id"]] = len(self._prompt(row, _UNLIMITED).ids)
        return known

    def _prompt(self, row: Row, limit: int) -> Any:
        return policy_prompt_ids(
            self._tokenizer,
            self._family,
            json.loads(row["messages"]),
            task=self._config["task"],
            prompt_template=self._config["prompt_template"],
            max_tokens=limit,
        )

    def _count(self, counts: dict[str, int], row: Row, prompt: int, sizes: Sequence[int]) -> None:
        """Count a row under what the limits would do to it; `sizes`: tokens of its responses."""
        counts["rows"] += 1
        counts["truncated_prompts"] += prompt > self._config["max_prompt_tokens"]
        counts["excluded_rows"] += max(sizes, default=0) > self._config["max_response_tokens"]
        if "rejected" in row:
            texts = (row["prompt"], row["chosen"], row["rejected"])
            counts["escaped_markers"] += sum(escape_markers(text)[1] for text in texts if "[" in text)
            fate = self._reward_fate(row, prompt + sum(sizes))
            if fate is not None:
                counts[fate] += 1

    def _is_long(self, target: int) -> bool:
        """Return whether a target and the longest response, without any context, may exceed the reward model's limit."""
        fits: int = self._config["max_length"] - self._reward_template - self._config["max_response_tokens"]
        return target > fits

    @cached_property
    def _reward_template(self) -> int:
        empty = {"prompt": "", "chosen": "", "rejected": ""}
        return len(self._reward(empty, _UNLIMITED).ids)

    def _reward_fate(self, row: Row, size: int) -> str | None:
        """Return "reward_truncated" or "reward_excluded", or None when the reward input fits as it is."""
        slack = _SLACK + _SLACK_PER_MESSAGE * row["messages"].count('"role"') + size // 50
        if size + slack <= self._config["max_length"]:
            return None
        try:
            return "reward_truncated" if self._reward(row).truncated else None
        except ResponsesTooLongError:
            return "reward_excluded"

    def _reward(self, row: Row, limit: int = 0) -> Any:
        return reward_input_ids(
            self._tokenizer,
            self._family,
            task=self._config["task"],
            context=row["prompt"],
            first=row["chosen"],
            second=row["rejected"],
            max_length=limit or self._config["max_length"],
        )

    def _example(self, files: Mapping[str, Sequence[Path]]) -> dict[str, Any]:
        """Return a row as the policy and, of preferences, the reward model read it, token by token."""
        example: dict[str, Any] = {}
        for name in ("preferences", "sft", "prompts"):
            row = next(iterate_rows(files[name]), None) if name in files else None
            if row is not None and "policy" not in example:
                prompt = self._prompt(row, self._config["max_prompt_tokens"])
                response = response_ids(self._tokenizer, row[_RESPONSES[name][0]]) if _RESPONSES[name] else []
                tokens = [*self._tokens(prompt.ids, "prompt"), *self._tokens(response, "response")]
                example["policy"] = {"tokens": tokens, "truncated": prompt.truncated, "row_id": row["row_id"]}
            if row is not None and name == "preferences":
                example["reward"] = self._reward_example(row)
        return example

    def _reward_example(self, row: Row) -> dict[str, Any]:
        try:
            made = self._reward(row)
        except ResponsesTooLongError as error:
            return {"tokens": [], "truncated": False, "escaped": 0, "row_id": row["row_id"], "message": str(error)}
        tokens = self._tokens(made.ids, "prompt")
        return {"tokens": tokens, "truncated": made.truncated, "escaped": made.escaped, "row_id": row["row_id"]}

    def _tokens(self, ids: Sequence[int], part: str) -> list[dict[str, Any]]:
        """Return ids with the text each stands for; special tokens by their name, as part "template" in a prompt."""
        special = set(self._tokenizer.all_special_ids)
        names = self._tokenizer.convert_ids_to_tokens(list(ids))
        texts = [
            name if token in special else self._tokenizer.decode([token], clean_up_tokenization_spaces=False)
            for token, name in zip(ids, names, strict=True)
        ]
        return [
            {
                "text": text,
                "id": int(token),
                "special": token in special,
                "part": "template" if token in special and part == "prompt" else part,
            }
            for token, text in zip(ids, texts, strict=True)
        ]


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while batch := list(islice(rows, _BATCH)):
        yield batch
