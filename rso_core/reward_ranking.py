"""The pairwise text-to-text reward-ranking model ρ_ψ: comparisons, preferences and rewards.

The model reads context and two responses, A and B, and answers with the token `A` or `B`:
ρ(x, y1, y2) = P(A | y1 as A, y2 as B), normalised over the two labels, so that its logit is the difference of the
two labels' logits. The mass outside of them, 1 − P(A) − P(B) over the full vocabulary, is reported.

Ours, not the paper's: both orders' logits are averaged (`order_average`), which makes ρ(a, b) = 1 − ρ(b, a).
Without it, the reward of a decoder-only model is −logit P(A | y_b, y), since there the baseline comes first; ρ itself
is P(A | y1, y2) for both families. Scores depend on what is read together by rounding only.
"""

import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rso_core.lanes import lanes_to_read, side_by_side
from rso_core.packed_forward import packs
from rso_core.prefix_tree import Ids, packed_batches, padded_batches, tree_tokens
from rso_core.reward_logits import label_logits
from rso_core.templates import RewardInput, reward_input_ids
from rso_core.vocabulary import Task

if TYPE_CHECKING:
    from rso_core.models import LanguageModel

Answer = tuple[float, float]  # logit P(A), 1 − P(A) − P(B)
OnProgress = Callable[[int, int], None]
# More do not go faster; fewer repeat beginnings.
TOKENS_AT_ONCE = 16_384


def _nobody_watches(_units: int, _tokens: int) -> None:
    return None


@dataclass(frozen=True)
class Shown:
    """A comparison as the model sees it: `first` is A, `second` is B."""

    context: str
    first: str
    second: str

    @property
    def turned(self) -> "Shown":
        """Return the same comparison in the other order."""
        return Shown(self.context, self.second, self.first)


@dataclass(frozen=True)
class Reader:
    """Turns comparisons into token ids, and answers them with the model."""

    lm: "LanguageModel"
    task: Task
    max_length: int

    def encode(self, shown: Shown) -> RewardInput:
        """Return the input. Raises ResponsesTooLongError when the two responses alone do not fit."""
        limit = self.lm.context_limit
        return reward_input_ids(
            self.lm.tokenizer,
            self.lm.family,
            task=self.task,
            context=shown.context,
            first=shown.first,
            second=shown.second,
            max_length=self.max_length if limit is None else min(self.max_length, limit),
        )

    def answer(
        self, shown: Sequence[Shown], *, batch_size: int, on_progress: OnProgress = _nobody_watches
    ) -> "Answers":
        """Return the answers to comparisons, in order; see `answer_inputs`."""
        inputs = {one: array("i", self.encode(one).ids) for one in dict.fromkeys(shown)}
        return self.answer_inputs([inputs[one] for one in shown], batch_size=batch_size, on_progress=on_progress)

    def answer_inputs(
        self, inputs: Sequence["array[int]"], *, batch_size: int, on_progress: OnProgress = _nobody_watches
    ) -> "Answers":
        """Return the answers to encoded comparisons, in order. Equal ones are answered once.

        What begins alike is read together, whatever order it is asked in: as many tokens at once as `batch_size` of
        the longest comparisons have, and at most `TOKENS_AT_ONCE`.
        """
        keys = [ids.tobytes() for ids in inputs]
        uses = Counter(keys)
        found: dict[bytes, Answer] = {}
        for batch, answers in self._answered(uses, min(TOKENS_AT_ONCE, batch_size * self.max_length)):
            found |= dict(zip(batch, answers, strict=True))
            on_progress(sum(uses[key] for key in batch), sum(len(_ids(key)) for key in batch))
        return Answers([found[key][0] for key in keys], [found[key][1] for key in keys])

    def _answered(self, distinct: Iterable[bytes], budget: int) -> Iterator[tuple[list[bytes], list[Answer]]]:
        """Yield what is read at once, with its answers; at most `budget` tokens are read at any time.

        Neighbours where beginnings are shared, in several lanes where that is worth while; else comparisons of similar length.
        """
        if not packs(self.lm):
            order = sorted(distinct, key=lambda key: (len(key), key))
            parts = padded_batches([len(_ids(key)) for key in order], budget)
            yield from (self._answers_to(order[part.start : part.stop]) for part in parts)
            return
        order = sorted(distinct)
        sequences = [_ids(key) for key in order]
        lanes, budget = self._lanes(sequences, budget)
        batches = [order[part.start : part.stop] for part in packed_batches(sequences, budget)]
        if lanes == 1:
            yield from map(self._answers_to, batches)
            return
        for row in side_by_side([partial(map, self._answers_to, batches[lane::lanes]) for lane in range(lanes)]):
            yield from row

    def _lanes(self, sequences: Sequence[Ids], budget: int) -> tuple[int, int]:
        """Return how many lanes read the sequences, and how many tokens each reads at once: about the same number."""
        tokens = tree_tokens(sequences)
        lanes = lanes_to_read(self.lm, tokens, together=min(budget, tokens) // 2)
        if lanes == 1:
            return 1, budget
        rounds = -(-tokens // budget)
        return lanes, -(-tokens // (lanes * rounds)) + max(map(len, sequences))

    def _answers_to(self, batch: list[bytes]) -> tuple[list[bytes], list[Answer]]:
        logits, outside = label_logits(self.lm, [_ids(key) for key in batch])
        return batch, list(zip(logits.tolist(), outside.tolist(), strict=True))


def _ids(key: bytes) -> Ids:
    return np.frombuffer(key, dtype=np.int32)


@dataclass(frozen=True)
class Answers:
    """logit P(A), and 1 − P(A) − P(B), of each comparison."""

    logits: list[float]
    outside_mass: list[float]


@dataclass(frozen=True)
class Pool:
    """The responses to a prompt whose rewards are wanted, and the baseline y_b they are compared with."""

    context: str
    responses: Sequence[str]
    baseline: str


@dataclass(frozen=True)
class Rewards:
    """r_ψ of each response; the logits it was made of (None: not needed); see `rewards`."""

    rewards: list[float]
    logit_first: list[float] | None
    logit_second: list[float] | None
    outside_mass: list[float]


def rewards(
    lm: "LanguageModel",
    pools: Sequence[Pool],
    *,
    task: Task,
    max_length: int,
    order_average: bool,
    batch_size: int,
    on_progress: OnProgress = _nobody_watches,
) -> list[Rewards]:
    """Return the induced rewards (eq. 7) of prompts' responses against their baselines y_b, in order.

    r(y) = ½[logit P(A | y, y_b) − logit P(A | y_b, y)]; without `order_average` its first term alone for T5, its
    second for decoder-only models. Raises UserError when a comparison does not fit into `max_length` tokens.
    `on_progress` gets finished responses and tokens.
    """
    signs = [1.0] * (order_average or lm.family == "seq2seq") + [-1.0] * (order_average or lm.family == "causal")
    response_first = [Shown(pool.context, y, pool.baseline) for pool in pools for y in pool.responses]
    orders = [response_first if sign > 0 else [one.turned for one in response_first] for sign in signs]
    answers = Reader(lm, task, max_length).answer(
        [one for order in orders for one in order],
        batch_size=batch_size,
        on_progress=in_units(on_progress, len(orders)),
    )
    logits = np.array(answers.logits).reshape(len(orders), -1)
    outside = np.array(answers.outside_mass).reshape(len(orders), -1)
    ends = np.cumsum([0, *(len(pool.responses) for pool in pools)])
    spans = [slice(start, end) for start, end in pairwise(ends.tolist())]
    return [_rewards(logits[:, span], outside[:, span], signs) for span in spans]


def _rewards(logits: NDArray[np.float64], outside: NDArray[np.float64], signs: Sequence[float]) -> Rewards:
    """Return the rewards of one prompt's responses; rows: the orders, sign 1 where the response comes first."""
    return Rewards(
        rewards=(np.array(signs)[:, None] * logits).mean(axis=0).tolist(),
        logit_first=logits[0].tolist() if signs[0] > 0 else None,
        logit_second=logits[-1].tolist() if signs[-1] < 0 else None,
        outside_mass=outside.mean(axis=0).tolist(),
    )


def prefer(
    lm: "LanguageModel",
    triples: Sequence[tuple[str, str, str]],
    *,
    task: Task,
    max_length: int,
    order_average: bool,
    batch_size: int,
    on_progress: OnProgress = _nobody_watches,
) -> list[float]:
    """Return ρ(x, y1, y2) of triples (x, y1, y2), in order; `on_progress` gets finished triples and tokens."""
    reader = Reader(lm, task, max_length)
    shown = [Shown(*triple) for triple in triples]
    orders = [shown, [one.turned for one in shown]] if order_average else [shown]
    both = [one for order in orders for one in order]
    answers = reader.answer(both, batch_size=batch_size, on_progress=in_units(on_progress, len(orders)))
    logits = np.array(answers.logits).reshape(len(orders), -1)
    margin = logits[0] if len(orders) == 1 else (logits[0] - logits[1]) / 2
    return [_sigmoid(value) for value in margin.tolist()]


def in_units(on_progress: OnProgress, answers_a_unit: int) -> OnProgress:
    """Return a listener to answers that reports units of several answers, none twice and none left over."""
    answered = 0

    def on_answers(answers: int, tokens: int) -> None:
        nonlocal answered
        before, answered = answered, answered + answers
        on_progress(answered // answers_a_unit - before // answers_a_unit, tokens)

    return on_answers


def _sigmoid(value: float) -> float:
    """Return σ(value), such that σ(v) = 1 − σ(−v) exactly."""
    if value < 0:
        return 1 - _sigmoid(-value)
    return 1 / (1 + math.exp(-value))
