"""Preference pairs as policy fitting reads them: flat token ids, the pairs of a prompt together, log π_sft beside."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from rso_core.artifacts import Row, iterate_rows, read_table
from rso_core.data_order import Blocks
from rso_core.grouped_forward import Group
from rso_core.token_rows import TokenRows
from rso_core.vocabulary import canonical_json, text_digest

_TOKENS = ("prompt_token_ids", "chosen_token_ids", "rejected_token_ids")


def response_id(token_ids: Sequence[int]) -> str:
    """Return the identifier of a response: equal token ids share it."""
    return text_digest(canonical_json(list(token_ids)))


@dataclass(frozen=True, eq=False)
class TokenPairs(Sequence[Row]):
    """Pairs over memory-mapped columns: 24 bytes a pair are held, and what a batch reads; `pairs[i]` is made at that moment.

    blocks: the number of each pair's prompt. prompt_ids: the prompts by that number. references: log π_sft of chosen
    and rejected responses, [2, pairs] in float64. targets: y_ref of each pair, for slic (eq. 1).
    """

    prompts: TokenRows
    chosen: TokenRows
    rejected: TokenRows
    blocks: NDArray[np.int32]
    prompt_ids: Any
    references: NDArray[np.float64] | None = None
    targets: TokenRows | None = None

    @classmethod
    def of_files(cls, paths: Sequence[Path]) -> "TokenPairs":
        """Return the pairs of Arrow files, without a copy of their tokens."""
        table = read_table(paths, ("prompt_id", *_TOKENS))
        names = table["prompt_id"].combine_chunks().dictionary_encode()
        prompts, chosen, rejected = (TokenRows.of_column(table[name]) for name in _TOKENS)
        return cls(prompts, chosen, rejected, names.indices.to_numpy(), names.dictionary)

    def __len__(self) -> int:
        return len(self.blocks)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row: Row = {
            "prompt_id": self.prompt_id(index),
            "prompt_token_ids": self.prompts[index],
            "chosen_token_ids": self.chosen[index],
            "rejected_token_ids": self.rejected[index],
        }
        if self.references is not None:
            row["reference_chosen"], row["reference_rejected"] = self.references[:, index].tolist()
        if self.targets is not None:
            row["target_token_ids"] = self.targets[index]
        return row

    def prompt_id(self, index: int) -> str:
        """Return the prompt's identifier of a pair."""
        found: str = self.prompt_ids[int(self.blocks[index])].as_py()
        return found

    def by_prompt(self) -> Iterator[tuple[NDArray[np.int64], Group]]:
        """Yield the pairs of each prompt, and the prompt with their distinct responses, both in order."""
        for members in Blocks(self.blocks):
            responses: dict[tuple[int, ...], None] = {}
            for index in members:
                responses.setdefault(tuple(self.chosen[index]))
                responses.setdefault(tuple(self.rejected[index]))
            yield members, Group(self.prompts[members[0]], list(map(list, responses)))

    def with_references(self, paths: Sequence[Path]) -> "TokenPairs":
        """Return the pairs with the log-probs that were computed for them: one for each response of `by_prompt`.

        Raises ValueError when a file holds the log-probs of other responses.
        """
        rows = iterate_rows(paths)
        found = np.empty((2, len(self)))
        for members, group in self.by_prompt():
            prompt = self.prompt_id(members[0])
            values = {tuple(ids): _log_prob(next(rows, None), prompt, ids) for ids in group.responses}
            found[0, members] = [values[tuple(self.chosen[i])] for i in members]
            found[1, members] = [values[tuple(self.rejected[i])] for i in members]
        return replace(self, references=found)


def _log_prob(row: Row | None, prompt: str, ids: Sequence[int]) -> float:
    wanted = (prompt, response_id(ids))
    got = None if row is None else (row["prompt_id"], row["response_id"])
    if row is None or got != wanted:
        message = f"the reference log-prob of prompt and response {wanted} was expected, got that of {got}: it belongs to other pairs"
        raise ValueError(message)
    return float(row["log_prob"])
