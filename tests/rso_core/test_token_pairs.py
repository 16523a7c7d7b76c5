from pathlib import Path
from typing import Any

import pytest

from rso_core.artifacts import Row, write_rows
from rso_core.stages_pairs import PAIRS
from rso_core.stages_training import REFERENCE
from rso_core.token_pairs import TokenPairs, response_id

# Two prompts that take turns, and a response that is in two pairs of its prompt.
RESPONSES = [("b", [5], [6, 7]), ("a", [5], [8]), ("b", [9], [5]), ("a", [10], [11])]


def pairs(folder: Path) -> list[Path]:
    rows: list[Row] = [
        dict.fromkeys(PAIRS.names)
        | {"prompt_id": prompt, "prompt_token_ids": [ord(prompt)], "chosen_token_ids": chosen, "rejected_token_ids": rejected}
        for prompt, chosen, rejected in RESPONSES
    ]  # fmt: skip
    write_rows(folder / "pairs.arrow", rows, PAIRS, batch_size=3)
    return [folder / "pairs.arrow"]


def references(folder: Path, changes: dict[int, dict[str, Any]]) -> list[Path]:
    of_prompts = [("b", [[5], [6, 7], [9]]), ("a", [[5], [8], [10], [11]])]
    rows: list[Row] = [
        {"prompt_id": prompt, "response_id": response_id(ids), "log_prob": -float(ids[0] + (prompt == "a")), "tokens": len(ids)}
        for prompt, responses in of_prompts
        for ids in responses
    ]  # fmt: skip
    rows = [row | changes.get(i, {}) for i, row in enumerate(rows) if changes.get(i) != {}]
    write_rows(folder / "references.arrow", rows, REFERENCE)
    return [folder / "references.arrow"]


def test_pairs_come_with_their_prompts_and_the_references_of_their_responses(tmp_path: Path) -> None:
    found = TokenPairs.of_files(pairs(tmp_path)).with_references(references(tmp_path, {}))

    assert [(row["prompt_id"], row["chosen_token_ids"], row["rejected_token_ids"]) for row in found] == RESPONSES
    assert [row["prompt_token_ids"] for row in found] == [[98], [97], [98], [97]]
    assert [(row["reference_chosen"], row["reference_rejected"]) for row in found] == [(-5, -6), (-6, -9), (-9, -5), (-11, -12)]  # fmt: skip
    assert found.blocks.tolist() == [0, 1, 0, 1]
    assert found[1:3] == [found[1], found[2]]


def test_prompts_come_with_each_response_once(tmp_path: Path) -> None:
    found = [
        (members.tolist(), group.prompt_ids, group.responses)
        for members, group in TokenPairs.of_files(pairs(tmp_path)).by_prompt()
    ]

    assert found == [([0, 2], [98], [[5], [6, 7], [9]]), ([1, 3], [97], [[5], [8], [10], [11]])]


@pytest.mark.parametrize("changes", [{2: {"prompt_id": "c"}}, {4: {"response_id": response_id([1])}}, {6: {}}])
def test_references_of_other_pairs_are_refused(tmp_path: Path, changes: dict[int, dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="belongs to other pairs"):
        TokenPairs.of_files(pairs(tmp_path)).with_references(references(tmp_path, changes))
