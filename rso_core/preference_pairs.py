"""Preference pairs from a prompt's samples, labelled by ρ(x, y1, y2) itself (arXiv:2309.06657, §3.3).

`first_round_rank` plays n/2 disjoint games. `tournament_rank` lets the winners go on until one is left: n − 1 games.
Where this says more than the paper:

1. Candidates are shuffled by the prompt's seed, so that the order of acceptance decides nothing.
2. An odd one out has a bye. It plays first in the next round, so nobody has two byes in a row.
3. A game between identical texts advances the first and yields no pair; neither does one of which ρ says exactly ½.
   Both are counted in `dropped_ties`.
4. `comparisons` counts the games put to ρ, once each whatever the orders averaged. Games between identical texts are
   not put to it. Without them the count is Table 7's: n/2, or n − 1.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rso_core.config import Ranking
from rso_core.errors import UserError
from rso_core.random_streams import permutation

# (prompt, first candidate, second candidate), all as positions.
GameToPlay = tuple[int, int, int]
Prefer = Callable[[Sequence[GameToPlay]], Sequence[float]]

_TIE = 0.5


@dataclass(frozen=True)
class Game:
    """A decided game: positions of winner and loser in the prompt's texts, and ρ(x, winner, loser) > ½."""

    chosen: int
    rejected: int
    probability: float


@dataclass(frozen=True)
class Ranked:
    """The pairs of each prompt, round by round, with what was counted over all prompts.

    `left` holds who of each prompt was never beaten: after a tournament, the one best sample.
    """

    pairs: list[list[Game]]
    left: list[list[int]]
    comparisons: int
    dropped_ties: int
    byes: int


def rank(texts: Sequence[Sequence[str]], *, ranking: Ranking, seeds: Sequence[int], prefer: Prefer) -> Ranked:
    """Pair the samples of each prompt and label the pairs by `prefer`.

    `texts` holds each prompt's samples, `seeds` its seed. `prefer` returns ρ(first beats second) of games; it is
    called once a round with the games of all prompts. Raises UserError when it returns something that is not a
    probability, ValueError when lengths differ.
    """
    if len(texts) != len(seeds):
        message = f"`seeds` must have one entry a prompt, got {len(seeds)} for {len(texts)}"
        raise ValueError(message)
    bracket = _Bracket(texts, [permutation(seed, len(one)) for one, seed in zip(texts, seeds, strict=True)])
    bracket.play_round(prefer)
    while ranking == "tournament_rank" and bracket.is_open():
        bracket.play_round(prefer)
    return Ranked(bracket.pairs, bracket.players, bracket.comparisons, bracket.dropped_ties, bracket.byes)


@dataclass
class _Bracket:
    """Who is still in, prompt by prompt, in the order in which they meet."""

    texts: Sequence[Sequence[str]]
    players: list[list[int]]
    pairs: list[list[Game]] = field(init=False)
    comparisons: int = 0
    dropped_ties: int = 0
    byes: int = 0

    def __post_init__(self) -> None:
        self.pairs = [[] for _ in self.texts]

    def is_open(self) -> bool:
        return any(len(players) > 1 for players in self.players)

    def play_round(self, prefer: Prefer) -> None:
        games = [
            (prompt, players[i], players[i + 1])
            for prompt, players in enumerate(self.players)
            for i in range(0, len(players) - 1, 2)
        ]
        # The odd one out comes first in the next round. One that is alone has won; that is no bye.
        self.byes += sum(len(players) % 2 for players in self.players if len(players) > 1)
        self.players = [players[-1:] if len(players) % 2 else [] for players in self.players]
        to_play = [game for game in games if not self._identical(game)]
        self.comparisons += len(to_play)
        answers = prefer(to_play) if to_play else []
        probability = dict(zip(to_play, answers, strict=True))
        for game in games:
            self._decide(game, probability.get(game, _TIE))

    def _identical(self, game: GameToPlay) -> bool:
        prompt, first, second = game
        return self.texts[prompt][first] == self.texts[prompt][second]

    def _decide(self, game: GameToPlay, probability: float) -> None:
        prompt, first, second = game
        if not (math.isfinite(probability) and 0 <= probability <= 1):
            message = (
                f"the preference between samples {first} and {second} of prompt number {prompt} is {probability}; it must "
                f"be a probability. The reward model has diverged: train it again with a lower reward.learning_rate"
            )
            raise UserError(message)
        winner, loser = (first, second) if probability >= _TIE else (second, first)
        self.players[prompt].append(winner)
        if probability == _TIE:
            self.dropped_ties += 1
        else:
            self.pairs[prompt].append(Game(winner, loser, max(probability, 1 - probability)))
