"""What the benchmarks compute on: token ids of real prompts and responses, the same for both sides.

`real_groups` takes prompts as a preference file has them; `cut_groups` cuts prompts and responses of a wished length
from its texts. Either way a group is {"prompt": ids, "responses": [ids, …]}, every response distinct and ended by the
end-of-sequence token, so JSON can carry it to the other side.
"""

import random
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Group = dict[str, Any]  # "prompt": list of token ids, "responses": list of lists of token ids


def preference_rows(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a preference file as the product imports them (COLUMNS["preference"])."""
    from rso_core.artifacts import iterate_rows
    from rso_core.importers import Options, import_file

    with tempfile.TemporaryDirectory() as folder:
        import_file(file, Path(folder), Options(kind="preference"))
        return list(iterate_rows(sorted(Path(folder).glob("rows*.arrow"))))


def tokenizer_of(model: Path) -> tuple[Any, Any]:
    """Return the tokenizer of a model folder, and the model's family."""
    from rso_core.models import load_tokenizer

    return load_tokenizer(model)


def pairs_as_groups(model: Path, file: Path, *, max_prompt_tokens: int = 1024) -> list[Group]:
    """Return the pairs of a file, each as a group of two responses (the chosen one first), at their real lengths."""
    import json

    from rso_core.templates import policy_prompt_ids, response_ids

    tokenizer, family = tokenizer_of(model)
    settings: dict[str, Any] = {"task": "dialogue", "prompt_template": "auto", "max_tokens": max_prompt_tokens}
    return [
        {
            "prompt": policy_prompt_ids(tokenizer, family, json.loads(row["messages"]), **settings).ids,
            "responses": [response_ids(tokenizer, row[side]) for side in ("chosen", "rejected")],
        }
        for row in preference_rows(file)
    ]


def real_groups(pairs: Sequence[Group], *, prompts: int, responses: int, seed: int, longest: int = 0) -> list[Group]:
    """Return real prompts with `responses` real responses each: their own two, then other prompts' (seeded).

    With `longest`, responses are cut to that many tokens, as a sampling limit would.
    """
    rng = random.Random(seed)  # noqa: S311 - no secret
    everything = [_cut(ids, longest) for pair in pairs for ids in pair["responses"]]
    chosen = rng.sample(pairs, prompts)
    return [
        {"prompt": pair["prompt"], "responses": _fill(pair, everything, responses, longest, rng)} for pair in chosen
    ]


def _cut(ids: Sequence[int], longest: int) -> list[int]:
    return list(ids) if not longest or len(ids) <= longest else [*ids[: longest - 1], ids[-1]]


def _fill(pair: Group, others: Sequence[list[int]], count: int, longest: int, rng: random.Random) -> list[list[int]]:
    found = {tuple(_cut(ids, longest)) for ids in pair["responses"][:count]}
    while len(found) < count:
        found.add(tuple(rng.choice(others)))
    return [list(ids) for ids in sorted(found)]


def cut_groups(
    pairs: Sequence[Group], *, prompts: int, responses: int, prompt_tokens: int, response_tokens: int, seed: int
) -> list[Group]:
    """Return prompts and responses of exactly the wished lengths, cut from the texts of `pairs` at seeded places."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    end = pairs[0]["responses"][0][-1]
    stream = [
        token for pair in pairs for ids in (pair["prompt"], *(r[:-1] for r in pair["responses"])) for token in ids
    ]

    def cut(tokens: int) -> list[int]:
        start = rng.randrange(len(stream) - tokens)
        return stream[start : start + tokens]

    def distinct() -> list[list[int]]:
        found: set[tuple[int, ...]] = set()
        while len(found) < responses:
            found.add((*cut(response_tokens - 1), end))
        return [list(ids) for ids in sorted(found)]

    return [{"prompt": cut(prompt_tokens), "responses": distinct()} for _ in range(prompts)]


def described(groups: Sequence[Group]) -> dict[str, Any]:
    """Return counts and lengths of groups in tokens, for the result file."""
    return {
        "prompts": len(groups),
        "responses_per_prompt": statistics.fmean(len(group["responses"]) for group in groups),
        "prompt_tokens": _lengths([len(group["prompt"]) for group in groups]),
        "response_tokens": _lengths([len(ids) for group in groups for ids in group["responses"]]),
    }


def _lengths(values: Sequence[int]) -> dict[str, float]:
    return {"median": statistics.median(values), "mean": round(statistics.fmean(values), 1), "max": max(values)}


def plain_tokens(groups: Sequence[Mapping[str, Any]]) -> int:
    """Return the tokens of one row per response: each holds its prompt again."""
    return sum(len(group["prompt"]) + len(ids) for group in groups for ids in group["responses"])


def grouped_tokens(groups: Sequence[Mapping[str, Any]]) -> int:
    """Return the tokens of one row per prompt: the prompt once, then its responses."""
    return sum(len(group["prompt"]) + sum(map(len, group["responses"])) for group in groups)
