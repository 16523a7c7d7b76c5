"""The candidates of a run, read from the artifacts of its stages: pool, scores, and what rejection sampling kept.

Artifacts are memory-mapped and never change, so what is remembered of one (where each prompt's row is, the
histogram of its rewards) is remembered by digest. A request reads the rows it shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rso_core.artifacts import Row, read_table
from webapp.runs.artifacts import store
from webapp.runs.text_search import rows_with

PAGE_SIZE = 25
_BINS = 40
_KEPT_COLUMNS = ("prompt_id", "prompt", "observed", "expected", "ess", "num_rounds", "distinct", "trials", "short")


@dataclass(frozen=True)
class Candidate:
    """One response of π_sft: its reward, and the round in which rejection sampling accepted it."""

    index: int
    text: str
    tokens: int
    truncated: bool
    reward: float | None
    round: int | None

    @property
    def is_kept(self) -> bool:
        """Return whether it was accepted."""
        return self.round is not None

    @property
    def accepted_word(self) -> str:
        """Return when it was accepted, for people; a random draw has no rounds."""
        return "drawn" if self.reward is None else f"round {self.round}"


@dataclass(frozen=True)
class PromptPool:
    """Everything sampled for one prompt. `kept` holds the figures of its rejection sampling, if there were any."""

    prompt_id: str
    prompt: str
    baseline: Candidate | None
    candidates: list[Candidate]
    kept: Row = field(default_factory=dict)


@dataclass(frozen=True)
class PromptPage:
    """A page of prompts. `before` and `after` are keys (places in the artifact) to go on from, None at the ends."""

    rows: list[Row]
    matches: int
    before: int | None
    after: int | None


def prompt_page(digest: str, *, words: str = "", after: int = 0) -> PromptPage:
    """Return the prompts of a pool from place `after` on, or those of them in whose text `words` stands."""
    files = store().files(digest)
    names = [name for name in _KEPT_COLUMNS if name in _schema(files[0]).names]
    table = read_table(files, names)
    if words:
        places = pc.indices_nonzero(rows_with(digest, ("prompt",), words)).to_numpy()
    else:
        places = np.arange(table.num_rows, dtype=np.uint64)
    return _page(table, places, after)


def human_prompt_page(digest: str, *, words: str = "", after: int = 0) -> PromptPage:
    """Return the prompts of people's pairs in the order of their first ones, each with its number of pairs.

    With `words`, only prompts of which a pair has them: in the prompt, or in a response.
    """
    table = read_table(store().files(digest), ("prompt_id", "prompt"))
    prompts = _human_prompts(digest)
    table = table.append_column("pairs", pa.array(prompts.pairs[prompts.number]))
    return _page(table, _first_with(digest, words) if words else prompts.first, after)


@dataclass(frozen=True)
class _HumanPrompts:
    """The prompts of people's pairs: for each its first pair and how many it has, for each pair the number of its prompt."""

    first: Any
    pairs: Any
    number: Any


@lru_cache(maxsize=16)
def _human_prompts(digest: str) -> _HumanPrompts:
    ids = read_table(store().files(digest), ("prompt_id",))["prompt_id"]
    number = ids.combine_chunks().dictionary_encode().indices.to_numpy()  # in the order in which they appear
    return _HumanPrompts(np.unique(number, return_index=True)[1], np.bincount(number), number)


@lru_cache(maxsize=32)  # what was found is looked through page by page
def _first_with(digest: str, words: str) -> Any:
    """Return the first pair of each prompt of which a pair has the words."""
    found = rows_with(digest, ("prompt", "chosen", "rejected"), words).to_numpy()
    prompts = _human_prompts(digest)
    return prompts.first[np.unique(prompts.number[found])]


def _page(table: pa.Table, places: Any, after: int) -> PromptPage:
    """Return the rows at the places (ascending) from `after` on that fit a page."""
    start = int(np.searchsorted(places, after))
    shown, following = places[start : start + PAGE_SIZE], places[start + PAGE_SIZE : start + PAGE_SIZE + 1]
    before = int(places[max(0, start - PAGE_SIZE)]) if start else None
    return PromptPage(
        table.take(pa.array(shown)).to_pylist(), len(places), before, int(following[0]) if len(following) else None
    )


def prompt_pool(prompt_id: str, *, pool: str, scores: str = "", kept: str = "") -> PromptPool | None:
    """Return the candidates of a prompt, or None when it is not in the pool. Empty digests are not there yet."""
    row = _row(pool, prompt_id)
    if row is None:
        return None
    scored = _row(scores, prompt_id) if scores else None
    selection = (_row(kept, prompt_id) if kept else None) or {}
    rounds = {
        c["sample_index"]: number
        for c, number in zip(selection.get("kept", ()), selection.get("rounds", ()), strict=True)
    }
    candidates = [
        _candidate(item, scored["rewards"][place] if scored else None, rounds.get(item["sample_index"]))
        for place, item in enumerate(row["candidates"])
    ]
    baseline = _candidate(row["baseline"], None, None) if row["baseline"] else None
    return PromptPool(prompt_id, row["prompt"], baseline, candidates, selection)


def _candidate(item: Row, reward: float | None, round_number: int | None) -> Candidate:
    tokens = len(item["token_ids"] or ())
    return Candidate(item["sample_index"], item["text"], tokens, item["truncated"], reward, round_number)


@lru_cache(maxsize=16)
def _places(digest: str) -> dict[str, tuple[int, int, int]]:
    """Return where each prompt's row is: file, record batch, row in the batch."""
    found: dict[str, tuple[int, int, int]] = {}
    for number, path in enumerate(store().files(digest)):
        reader = _open(path)
        for batch in range(reader.num_record_batches):
            ids = reader.get_batch(batch).column("prompt_id").to_pylist()
            found |= {prompt: (number, batch, row) for row, prompt in enumerate(ids)}
    return found


def _row(digest: str, prompt_id: str) -> Row | None:
    place = _places(digest).get(prompt_id)
    if place is None:
        return None
    number, batch, row = place
    found: list[Row] = _open(store().files(digest)[number]).get_batch(batch).slice(row, 1).to_pylist()
    return found[0]


def _open(path: Path) -> Any:
    return pa.ipc.open_file(pa.memory_map(str(path)))


def _schema(path: Path) -> Any:
    return _open(path).schema


@lru_cache(maxsize=32)
def _histogram(digest: str) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Return the edges and counts of the rewards of all candidates; one file is in memory at a time."""
    columns = [_flat(path, "rewards") for path in store().files(digest)]
    low = min((float(values.min()) for values in columns if len(values)), default=0.0)
    high = max((float(values.max()) for values in columns if len(values)), default=0.0)
    edges = np.linspace(low, max(high, low + 1e-9), _BINS + 1)
    counts = sum((np.histogram(values, edges)[0] for values in columns), np.zeros(_BINS, dtype=np.int64))
    return tuple(edges.tolist()), tuple(int(count) for count in counts)


@lru_cache(maxsize=32)
def _kept_counts(digest: str, edges: tuple[float, ...]) -> tuple[int, ...]:
    counts = np.zeros(len(edges) - 1, dtype=np.int64)
    for path in store().files(digest):
        counts += np.histogram(_flat(path, "kept_rewards"), np.array(edges))[0]
    return tuple(int(count) for count in counts)


def _flat(path: Path, column: str) -> Any:
    lists = read_table([path], [column])[column].drop_null()
    return pc.list_flatten(lists).to_numpy() if len(lists) else np.array([])


def reward_histogram(scores: str, kept: str, colour: str) -> dict[str, Any]:
    """Return the figure of all rewards beside those that were kept, as shares of each."""
    edges, counts = _histogram(scores)
    chosen = _kept_counts(kept, edges) if kept else ()
    middles = [(left + right) / 2 for left, right in pairwise(edges)]
    data = [_bars("all candidates", middles, counts, "--sft")]
    if sum(chosen):
        data.append(_bars("kept", middles, chosen, colour))
    layout = {
        "barmode": "overlay", "height": 240, "bargap": 0.04,
        "xaxis": {"title": {"text": "reward r_ψ (logit against the baseline)"}},
        "yaxis": {"tickformat": ".0%", "title": {"text": "share"}},
    }  # fmt: skip
    return {"data": data, "layout": layout}


def _bars(name: str, middles: Sequence[float], counts: Sequence[int], colour: str) -> dict[str, Any]:
    total = max(1, sum(counts))
    return {
        "type": "bar", "name": name, "x": list(middles), "y": [count / total for count in counts],
        "marker": {"color": f"var({colour})"}, "opacity": 0.65,
        "hovertemplate": f"{name}<br>reward %{{x:.3f}}<br>%{{y:.1%}}<extra></extra>",
    }  # fmt: skip


def acceptance_figure(kept: str, colour: str) -> dict[str, Any]:
    """Return the figure of observed against expected acceptance: one point a prompt (at most 1,000)."""
    table = read_table(store().files(kept), ["prompt_id", "observed", "expected"]).slice(0, 1000)
    points = [row for row in table.to_pylist() if row["observed"] is not None and row["expected"] is not None]
    most = max((max(row["observed"], row["expected"]) for row in points), default=1.0)
    data = [
        {
            "mode": "markers", "name": "prompt", "x": [row["expected"] for row in points],
            "y": [row["observed"] for row in points], "text": [row["prompt_id"] for row in points],
            "marker": {"color": f"var({colour})", "size": 6, "opacity": 0.6},
            "hovertemplate": "expected %{x:.1%}<br>observed %{y:.1%}<br>prompt %{text}<extra></extra>",
        },
        {
            "mode": "lines", "name": "equal", "x": [0, most], "y": [0, most], "hoverinfo": "skip",
            "line": {"color": "var(--line-strong)", "dash": "dot", "width": 1},
        },
    ]  # fmt: skip
    layout = {
        "height": 240, "showlegend": False,
        "xaxis": {"tickformat": ".0%", "title": {"text": "expected acceptance"}, "rangemode": "tozero"},
        "yaxis": {"tickformat": ".0%", "title": {"text": "observed"}, "rangemode": "tozero"},
    }  # fmt: skip
    return {"data": data, "layout": layout}
