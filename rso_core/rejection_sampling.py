"""Statistical rejection sampling: Algorithm 1 of RSO (arXiv:2309.06657).

Draws from the target policy π_r(y|x) ∝ π_sft(y|x)·exp(r(x, y)/β) (eq. 4) by keeping some of the candidates drawn
from π_sft. Where this differs from the algorithm as printed:

1. Candidates are known by their index, not by their text, so duplicates keep their multiplicity.
2. They are visited in a random order drawn from the prompt's seed: with the early stop of a round, candidates that
   arrive sorted by reward would bias the result.
3. It stops in the middle of a round as soon as enough are accepted: exactly `num_samples`, never more.
4. Fewer candidates than asked for: all of them are returned and the selection is flagged `short`.
5. A reward that is NaN or infinite is refused; as printed, a NaN is always accepted.
6. β = 0 is its limit, the best `num_samples` with ties broken by the seed; β = ∞ draws uniformly without replacement.

Gumbel top-k is not this distribution. All prompts of a call are worked on at once, in float64.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rso_core.errors import UserError
from rso_core.random_streams import random_bits, uniforms

_PROMPTS_AT_ONCE = 4096  # × 64 candidates: about 2 MB for each of a dozen arrays

Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Selection:
    """The kept candidates of one prompt and how they were found.

    `rounds` holds the round, from 1, in which each of `indices` was accepted. `observed` is accepted / trials;
    `expected` is the mean over the same trials of exp((r − that round's maximum)/β), equal to it in expectation;
    `theorem1` is that mean over all candidates in the first round, an estimate of E_π_sft[exp((r − r_max)/β)]
    and the limit of the acceptance rate for many candidates. `ess` is (Σw)²/Σw² with w = exp((r − r_max)/β).
    The figures are None when there was no candidate. `short`: fewer candidates than asked for.
    """

    indices: tuple[int, ...]
    rounds: tuple[int, ...]
    trials: int
    observed: float | None
    expected: float | None
    theorem1: float | None
    ess: float | None
    num_rounds: int
    short: bool


def sample(rewards: ArrayLike, *, num_samples: int, beta: float, seed: int, prompt_id: str = "") -> Selection:
    """Keep `num_samples` candidates of one prompt; see `sample_many`."""
    return sample_many([rewards], num_samples=num_samples, beta=beta, seeds=[seed], prompt_ids=[prompt_id])[0]


def sample_many(
    rewards: Sequence[ArrayLike], *, num_samples: int, beta: float, seeds: Sequence[int], prompt_ids: Sequence[str] = ()
) -> list[Selection]:
    """Keep `num_samples` candidates of each prompt; the indices come in the order of acceptance.

    `rewards` holds one vector a prompt, which may differ in length. A prompt's selection depends on its rewards
    and its seed only. Raises UserError for a reward that is not finite, naming prompt and candidate, and
    ValueError for β < 0, `num_samples` < 1 or sequences of different lengths.
    """
    _refuse_settings(num_samples, beta)
    if len(seeds) != len(rewards) or len(prompt_ids) not in {0, len(rewards)}:
        message = f"`seeds` and `prompt_ids` must have one entry a prompt, got {len(seeds)} and {len(prompt_ids)} for {len(rewards)}"
        raise ValueError(message)
    vectors = [np.asarray(vector, dtype=np.float64) for vector in rewards]
    _refuse_non_finite(vectors, prompt_ids)
    found: list[Selection] = []
    for start in range(0, len(vectors), _PROMPTS_AT_ONCE):
        block = slice(start, start + _PROMPTS_AT_ONCE)
        found += _Block(vectors[block], np.array(seeds[block], dtype=np.uint64), num_samples, beta).run()
    return found


def _refuse_settings(num_samples: int, beta: float) -> None:
    if not beta >= 0:  # written so that NaN is refused too
        message = f"`beta` must be 0 or above, got {beta}"
        raise ValueError(message)
    if num_samples < 1:
        message = f"`num_samples` must be 1 or above, got {num_samples}"
        raise ValueError(message)


def _refuse_non_finite(vectors: Sequence[Matrix], prompt_ids: Sequence[str]) -> None:
    for prompt, vector in enumerate(vectors):
        if vector.ndim != 1:
            message = f"the rewards of a prompt are one vector, got shape {vector.shape}"
            raise ValueError(message)
        if not np.isfinite(vector).all():
            candidate = int(np.flatnonzero(~np.isfinite(vector))[0])
            name = prompt_ids[prompt] if prompt_ids else f"number {prompt}"
            message = (
                f"the reward of candidate {candidate} of prompt {name} is {vector[candidate]}; rewards must be finite. "
                f"Score this prompt again, or train the reward model again with a lower learning rate"
            )
            raise UserError(message)


def acceptance_probabilities(rewards: Matrix, maximum: Matrix, beta: float) -> Matrix:
    """Return exp((r − maximum)/β), with its limits: 1 for all at β = ∞; 1 for the maximum and else 0 at β = 0."""
    if beta == np.inf:
        return np.ones_like(rewards)
    if beta == 0:
        return np.equal(rewards, maximum).astype(np.float64)
    with np.errstate(over="ignore"):  # a quotient beyond float64 is −∞, whose exponential is 0
        weights: Matrix = np.exp((rewards - maximum) / beta)
    return weights


class _Block:
    """Algorithm 1 on a block of prompts: arrays of [prompts, candidates] in visiting order, padded on the right."""

    def __init__(self, vectors: Sequence[Matrix], seeds: NDArray[np.uint64], num_samples: int, beta: float) -> None:
        self.seeds, self.beta, self.num_samples = seeds, beta, num_samples
        self.sizes = np.array([len(vector) for vector in vectors])
        self.columns = np.arange(max(self.sizes.max(initial=0), 1), dtype=np.uint64)
        present = self.columns[None, :] < self.sizes[:, None]
        rewards = np.full(present.shape, -np.inf)
        rewards[present] = np.concatenate(vectors)
        self.order = self._visiting_order(present)
        self.rewards = np.take_along_axis(rewards, self.order, axis=1)
        self.remaining = np.take_along_axis(present, self.order, axis=1)
        self.first_weights = self._weights(np.arange(len(vectors)))
        self.need = np.minimum(self.sizes, num_samples)
        self.round_of = np.zeros(present.shape, dtype=np.int64)
        self.trials = np.zeros(len(vectors), dtype=np.int64)
        self.tried_weight = np.zeros(len(vectors))

    def _visiting_order(self, present: Mask) -> NDArray[np.intp]:
        keys = random_bits(self.seeds, 0, self.columns)
        # lexsort's last key is the first criterion: padding goes behind every candidate.
        return np.lexsort((keys, ~present), axis=1)

    def _weights(self, rows: NDArray[np.intp]) -> Matrix:
        """Return the acceptance probability of each remaining candidate; 0 for all others."""
        remaining = self.remaining[rows]
        rewards = np.where(remaining, self.rewards[rows], -np.inf)
        maximum = rewards.max(axis=1, keepdims=True)
        # An empty row has no maximum; any finite stand-in keeps −∞ − (−∞) away.
        maximum = np.where(np.isfinite(maximum), maximum, 0.0)
        weights = acceptance_probabilities(np.where(remaining, rewards, maximum), maximum, self.beta)
        return np.where(remaining, weights, 0.0)

    def run(self) -> list[Selection]:
        number = 0
        # Each round accepts at least the current maximum (u < 1), so this ends.
        while (active := np.flatnonzero(self.need)).size:
            number += 1
            self._round(number, active)
        return list(self._selections())

    def _round(self, number: int, rows: NDArray[np.intp]) -> None:
        """Go once through what remains of the prompts `rows`, stopping in each as soon as enough are accepted."""
        weights, remaining = self._weights(rows), self.remaining[rows]
        # Numbers belong to candidates, not to places in the order: padding cannot shift them.
        drawn = np.take_along_axis(uniforms(self.seeds[rows], number, self.columns), self.order[rows], axis=1)
        would_accept = remaining & (drawn < weights)
        accepted_before = would_accept.cumsum(axis=1) - would_accept
        tried = remaining & (accepted_before < self.need[rows, None])
        accepted = would_accept & tried
        self.trials[rows] += tried.sum(axis=1)
        self.tried_weight[rows] += _row_sums(np.where(tried, weights, 0.0))
        self.round_of[rows] += number * accepted
        self.remaining[rows] = remaining & ~accepted
        self.need[rows] -= accepted.sum(axis=1)

    def _selections(self) -> Iterator[Selection]:
        total, squares = _row_sums(self.first_weights), _row_sums(self.first_weights**2)
        for row, size in enumerate(self.sizes):
            places = np.flatnonzero(self.round_of[row])
            places = places[np.argsort(self.round_of[row, places], kind="stable")]
            trials = int(self.trials[row])
            rounds = tuple(self.round_of[row, places].tolist())
            yield Selection(
                indices=tuple(self.order[row, places].tolist()),
                rounds=rounds,
                trials=trials,
                observed=len(places) / trials if trials else None,
                expected=float(self.tried_weight[row]) / trials if trials else None,
                theorem1=float(total[row] / size) if size else None,
                ess=float(total[row] ** 2 / squares[row]) if size else None,
                num_rounds=max(rounds, default=0),
                short=bool(size < self.num_samples),
            )


def _row_sums(values: Matrix) -> Matrix:
    """Return the sum of each row, from left to right: `sum` would round differently with more padding."""
    return values.cumsum(axis=1)[:, -1]
