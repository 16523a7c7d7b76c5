"""Bradley–Terry strengths of systems that met in different company, for the playground's leaderboard.

P(i beats j) = σ(θ_i − θ_j); "same" is half a win for either. Of three responses the chosen one beats the others, and
the others have not met. The strengths maximise Σ wins_ij log σ(θ_i − θ_j) − PRIOR · Σ θ_i², so that a system nobody has
beaten stays finite: a normal prior of standard deviation √(1 / 2·PRIOR), 2.2. Their mean is 0.

Intervals: the cluster bootstrap over prompts, widened where the curvature of the objective (Laplace) says more: a
system that won all of its games wins them in every draw too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rso_core.cluster_statistics import expanded_tail
from rso_core.distributions import normal_quantile
from rso_core.ratings import SAME, Flags, Integers, Numbers
from rso_core.win_rate import cluster_draws

PRIOR = 0.1
DRAWS = 1000
_LEVEL = 0.95
_MOST_STEPS = 100
_LONGEST_STEP = 2.0  # Newton's steps overshoot where a system is unbeaten and the prior weak
_CLOSE = 1e-10


@dataclass(frozen=True, eq=False)
class Games:
    """Games of two systems each, G of them. `outcome`: 1 the first won, 0 the second, ½ neither."""

    first: Integers
    second: Integers
    outcome: Numbers
    cluster: Integers  # the prompt's


@dataclass(frozen=True)
class Strength:
    """One system. `win_rate` is the expected one against the others, each as often; `won` counts a tie as half."""

    strength: float
    low: float
    high: float
    win_rate: float
    games: int
    won: float


@dataclass(frozen=True)
class Leaderboard:
    """The systems by index. When not `connected`, some have never met, even through others: do not compare them."""

    systems: tuple[Strength, ...]
    games: int
    connected: bool


def games_of(shown: Sequence[Sequence[int]], choice: Sequence[int], prompt: Sequence[int]) -> Games:
    """Return the games of judgements: the systems shown, the index in them of the chosen one or SAME, the prompt."""
    rows = [
        game
        for systems, chosen, cluster in zip(shown, choice, prompt, strict=True)
        for game in _games_of_one(systems, chosen, cluster)
    ]
    columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
    first, second, cluster = (np.asarray(columns[n], dtype=np.int64) for n in (0, 1, 3))
    return Games(first=first, second=second, outcome=np.asarray(columns[2], dtype=np.float64), cluster=cluster)


def leaderboard(games: Games, systems: int, *, seed: int, draws: int = DRAWS, prior: float = PRIOR) -> Leaderboard:
    """Return the strengths of `systems` systems, 1 or more, from their games."""
    by_cluster = _wins_by_cluster(games, systems)
    wins = by_cluster.sum(axis=0)
    strengths = fit(wins, prior=prior)
    low, high = _limits(by_cluster, strengths, prior, draws, seed)
    expected = 1 / (1 + np.exp(strengths[None, :] - strengths[:, None]))
    against_others = (expected.sum(axis=1) - 0.5) / max(systems - 1, 1)  # ½ against itself
    played = wins + wins.T
    return Leaderboard(
        systems=tuple(
            Strength(
                strength=float(strengths[n]),
                low=float(low[n]),
                high=float(high[n]),
                win_rate=float(against_others[n]) if systems > 1 else 0.5,
                games=round(played[n].sum()),
                won=float(wins[n].sum()),
            )
            for n in range(systems)
        ),
        games=len(games.first),
        connected=bool(_reachable(played > 0).all()),
    )


def fit(wins: Numbers, *, prior: float = PRIOR) -> Numbers:
    """Return the strengths [..., S] for wins [..., S, S] of row over column, by Newton's method.

    Raises ValueError when `prior` is not above 0.
    """
    if prior <= 0:
        message = f"`prior` must be above 0 for an unbeaten system to have a finite strength, got {prior}"
        raise ValueError(message)
    strengths = np.zeros(wins.shape[:-1])
    for _ in range(_MOST_STEPS):
        gradient, curvature = _derivatives(wins, strengths, prior)
        step = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        longest = np.abs(step).max(axis=-1, keepdims=True)
        strengths = strengths + step * np.minimum(1, _LONGEST_STEP / np.maximum(longest, _CLOSE))
        if longest.max() < _CLOSE:
            break
    return np.asarray(strengths - strengths.mean(axis=-1, keepdims=True))


def _derivatives(wins: Numbers, strengths: Numbers, prior: float) -> tuple[Numbers, Numbers]:
    """Return the objective's gradient [..., S] and its negative second derivatives [..., S, S]."""
    losing = 1 / (1 + np.exp(strengths[..., :, None] - strengths[..., None, :]))  # P(row loses to column)
    surprise = wins * losing
    gradient = surprise.sum(axis=-1) - surprise.sum(axis=-2) - 2 * prior * strengths
    information = (wins + np.swapaxes(wins, -1, -2)) * losing * (1 - losing)
    diagonal = (information.sum(axis=-1) + 2 * prior)[..., None] * np.eye(wins.shape[-1])
    return gradient, diagonal - information


def _games_of_one(systems: Sequence[int], chosen: int, cluster: int) -> list[tuple[int, int, float, int]]:
    if chosen != SAME:
        return [(systems[chosen], other, 1.0, cluster) for other in systems if other != systems[chosen]]
    return [
        (one, other, 0.5, cluster)
        for place, one in enumerate(systems)
        for other in systems[place + 1 :]
        if one != other
    ]


def _wins_by_cluster(games: Games, systems: int) -> Numbers:
    names, member = np.unique(games.cluster, return_inverse=True)
    wins = np.zeros((len(names), systems, systems))
    np.add.at(wins, (member, games.first, games.second), games.outcome)
    np.add.at(wins, (member, games.second, games.first), 1 - games.outcome)
    return wins


def _limits(by_cluster: Numbers, strengths: Numbers, prior: float, draws: int, seed: int) -> tuple[Numbers, Numbers]:
    systems, clusters = len(strengths), len(by_cluster)
    centred = np.eye(systems) - 1 / systems
    curvature = _derivatives(by_cluster.sum(axis=0), strengths, prior)[1]
    errors = np.sqrt(np.maximum(np.diag(centred @ np.linalg.inv(curvature) @ centred), 0))
    half_widths = normal_quantile((1 + _LEVEL) / 2) * errors
    low, high = strengths - half_widths, strengths + half_widths
    if clusters < 2:  # noqa: PLR2004 - one cluster is the same in every draw
        return low, high
    times = cluster_draws(np.random.default_rng(seed), draws, clusters)
    drawn = fit((times @ by_cluster.reshape(clusters, -1)).reshape(draws, systems, systems), prior=prior)
    tail = expanded_tail(clusters)
    lows, highs = np.quantile(drawn, [tail, 1 - tail], axis=0)
    return np.minimum(low, lows), np.maximum(high, highs)


def _reachable(met: Flags) -> Flags:
    """Return which systems are connected to the first one."""
    found = np.arange(len(met)) == 0
    while True:
        more = found | met[found].any(axis=0)
        if (more == found).all():
            return np.asarray(found)
        found = more
