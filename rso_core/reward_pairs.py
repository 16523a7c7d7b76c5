"""Human pairs as the reward-ranking model reads them: to learn from, and to be measured on."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from rso_core.artifacts import Row
from rso_core.reward_ranking import Reader, Shown
from rso_core.templates import ResponsesTooLongError
from rso_core.vocabulary import text_digest


@dataclass(frozen=True)
class HumanPair:
    """A human pair as token ids; `number` is its place in the data, which seeds its flips."""

    number: int
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
    for number, row in enumerate(rows):
        shown = Shown(row["prompt"], row["chosen"], row["rejected"])
        try:
            encoded, turned = reader.encode(shown), reader.encode(shown.turned)
        except ResponsesTooLongError:
            found.excluded_rows += 1
            continue
        found.truncated_contexts += encoded.truncated
        found.escaped_markers += encoded.escaped
        found.pairs.append(HumanPair(number, array("i", encoded.ids), array("i", turned.ids)))
    return found


def is_flipped(seed: int, number: int, epoch: int) -> bool:
    """Return whether a pair is shown with the loser first in a pass over the data: a fair, reproducible coin."""
    return int(text_digest(f"{seed}:flip:{number}:{epoch}"), 16) % 2 == 1
