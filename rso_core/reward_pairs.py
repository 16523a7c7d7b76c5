"""Human pairs as the reward-ranking model reads them: to learn from, and to be measured on."""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from rso_core.artifacts import Row
from rso_core.micro_batches import Sizes
from rso_core.prefix_tree import shared_tokens
from rso_core.reward_ranking import Reader, Shown
from rso_core.templates import ResponsesTooLongError
from rso_core.vocabulary import text_digest


@dataclass(frozen=True)
class HumanPair:
    """A human pair as token ids; `number` is its place in the data, which seeds its flips.

    `block` is the number of the first pair with its context.
    """

    number: int
    block: int
    chosen_first: "array[int]"
    rejected_first: "array[int]"

    def shown(self, flipped: bool) -> "array[int]":  # noqa: FBT001 - the only thing there is to say
        """Return the input with the winner first or, flipped, the loser."""
        return self.rejected_first if flipped else self.chosen_first


@dataclass
class HumanPairs:
    """The pairs that fit into the length limit, and what was done to the rows."""

    pairs: list[HumanPair] = field(default_factory=list)
    excluded_rows: int = 0
    truncated_contexts: int = 0
    escaped_markers: int = 0


def read_pairs(reader: Reader, rows: Iterable[Row]) -> HumanPairs:
    """Return the pairs of D_hf in both orders, each written as tokens once; 32-bit ids, a ninth of what lists take.

    A pair is left out when one of its orders does not fit without any context.
    """
    found = HumanPairs()
    blocks: dict[str, int] = {}
    for number, row in enumerate(rows):
        shown = Shown(row["prompt"], row["chosen"], row["rejected"])
        try:
            encoded, turned = reader.encode(shown), reader.encode(shown.turned)
        except ResponsesTooLongError:
            found.excluded_rows += 1
            continue
        found.truncated_contexts += encoded.truncated
        found.escaped_markers += encoded.escaped
        block = blocks.setdefault(text_digest(row["prompt"]), number)
        found.pairs.append(HumanPair(number, block, array("i", encoded.ids), array("i", turned.ids)))
    return found


def sizes_of(pairs: Sequence[HumanPair], *, shared: bool) -> Sizes:
    """Return the tokens of pairs, those with one context as a block; with `shared`, its tokens are read once for all."""
    lengths, blocks = [len(pair.chosen_first) for pair in pairs], [pair.block for pair in pairs]
    if not shared:
        return Sizes(lengths, None, blocks)
    contexts = _context_tokens(pairs)
    common = np.array([contexts[block] for block in blocks])
    return Sizes(np.array(lengths) - common, common, blocks)


def _context_tokens(pairs: Sequence[HumanPair]) -> dict[int, int]:
    """Return by block how many tokens all its pairs begin with: the context, unless the length limit cut it otherwise."""
    first: dict[int, array[int]] = {}
    found: dict[int, int] = {}
    for pair in pairs:
        one = first.setdefault(pair.block, pair.chosen_first)
        ids = [np.frombuffer(ids, dtype=np.int32) for ids in (one, pair.rejected_first)]
        found[pair.block] = min(found.get(pair.block, len(one)), shared_tokens(*ids))
    return found


def is_flipped(seed: int, number: int, epoch: int) -> bool:
    """Return whether a pair is shown with the loser first in a pass over the data: a fair, reproducible coin."""
    return int(text_digest(f"{seed}:flip:{number}:{epoch}"), 16) % 2 == 1
