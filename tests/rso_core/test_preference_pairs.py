import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rso_core.config import Ranking
from rso_core.errors import UserError
from rso_core.preference_pairs import Game, GameToPlay, Prefer, Ranked, rank
from rso_core.random_streams import permutation

CASES = json.loads((Path(__file__).parent / "cases" / "preference_pairs.json").read_text(encoding="utf-8"))

rankings = st.sampled_from(["first_round_rank", "tournament_rank"])
# Few different texts, so that equal ones meet.
prompts = st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=11), max_size=5)
seeds_for = st.integers(0, 2**63 - 1)


def strength(text: str) -> float:
    return float(sum(ord(letter) * 31**k for k, letter in enumerate(text)) % 1009) / 100


class Judge:
    """Prefers by a hidden strength (Bradley-Terry) and remembers what it was asked."""

    def __init__(self, texts: Sequence[Sequence[str]]) -> None:
        self.texts = texts
        self.rounds: list[list[GameToPlay]] = []

    def __call__(self, games: Sequence[GameToPlay]) -> list[float]:
        self.rounds.append(list(games))
        margins = [strength(self.texts[p][i]) - strength(self.texts[p][j]) for p, i, j in games]
        return [1 / (1 + math.exp(-margin)) for margin in margins]


def by_loop(texts: Sequence[str], ranking: Ranking, seed: int) -> tuple[list[Game], int]:
    """Rank one prompt by plain loops; return its pairs and how many games were put to the judge."""
    players, games, asked = permutation(seed, len(texts)), [], 0
    while len(players) > 1:
        winners = [players[-1]] if len(players) % 2 else []
        for k in range(len(players) // 2):
            first, second = players[2 * k], players[2 * k + 1]
            if texts[first] == texts[second]:
                winners.append(first)
                continue
            asked += 1
            p = 1 / (1 + math.exp(strength(texts[second]) - strength(texts[first])))
            if p == 0.5:
                winners.append(first)
                continue
            winner, loser = (first, second) if p > 0.5 else (second, first)
            winners.append(winner)
            games.append(Game(winner, loser, max(p, 1 - p)))
        players = winners
        if ranking == "first_round_rank":
            break
    return games, asked


@given(prompts, rankings, st.data())
@settings(deadline=None)
def test_a_batch_is_the_plain_loop_prompt_by_prompt(
    texts: list[list[str]], ranking: Ranking, data: st.DataObject
) -> None:
    seeds = data.draw(st.lists(seeds_for, min_size=len(texts), max_size=len(texts)))
    found = rank(texts, ranking=ranking, seeds=seeds, prefer=Judge(texts))
    alone = [by_loop(one, ranking, seed) for one, seed in zip(texts, seeds, strict=True)]
    assert found.pairs == [games for games, _ in alone]
    assert found.comparisons == sum(asked for _, asked in alone)


@given(prompts, rankings)
@settings(deadline=None)
def test_games_pairs_ties_and_byes_add_up(texts: list[list[str]], ranking: Ranking) -> None:
    judge = Judge(texts)
    found = rank(texts, ranking=ranking, seeds=range(len(texts)), prefer=judge)
    full = sum(len(one) // 2 if ranking == "first_round_rank" else max(len(one) - 1, 0) for one in texts)
    assert sum(map(len, found.pairs)) + found.dropped_ties == full
    assert found.comparisons == sum(map(len, judge.rounds)) <= full
    for one, games in zip(texts, found.pairs, strict=True):
        losers = [game.rejected for game in games]
        assert len(losers) == len(set(losers))  # who has lost is out
        for game in games:
            assert one[game.chosen] != one[game.rejected]
            assert game.probability > 0.5
            assert strength(one[game.chosen]) > strength(one[game.rejected])


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['ranking']} of {case['samples']}")
def test_the_counts_are_those_of_table_7(case: dict[str, Any]) -> None:
    texts = [[f"{p} {i}" for i in range(case["samples"])] for p in range(3)]
    judge = Judge(texts)
    found = rank(texts, ranking=case["ranking"], seeds=[1, 2, 3], prefer=judge)
    assert [len(games) for games in found.pairs] == [case["pairs"]] * 3
    assert (found.comparisons, found.byes, found.dropped_ties) == (3 * case["comparisons"], 3 * case["byes"], 0)
    assert len(judge.rounds) == case["rounds"]  # one call a round for all prompts


def test_a_consistent_judge_s_favourite_wins_the_tournament() -> None:
    texts = [f"text {i}" for i in range(13)]
    for seed in range(30):
        games = rank([texts], ranking="tournament_rank", seeds=[seed], prefer=Judge([texts])).pairs[0]
        winner = set(range(13)) - {game.rejected for game in games}
        assert winner == {max(range(13), key=lambda i: strength(texts[i]))}


def test_first_round_pairs_are_disjoint_and_drawn_evenly() -> None:
    texts = [[f"text {i}" for i in range(4)]] * 3000
    found = rank(texts, ranking="first_round_rank", seeds=range(3000), prefer=Judge(texts))
    met = Counter(frozenset((game.chosen, game.rejected)) for games in found.pairs for game in games)
    assert all(len({i for game in games for i in (game.chosen, game.rejected)}) == 4 for games in found.pairs)
    assert len(met) == 6
    for count in met.values():
        assert abs(count - 1000) < 4.5 * math.sqrt(3000 * (1 / 3) * (2 / 3))


def test_every_sample_has_the_bye_as_often() -> None:
    texts = [["a", "b", "c"]] * 3000
    found = rank(texts, ranking="first_round_rank", seeds=range(3000), prefer=Judge(texts))
    byes = Counter(({0, 1, 2} - {game.chosen, game.rejected}).pop() for (game,) in found.pairs)
    assert found.byes == 3000
    for count in byes.values():
        assert abs(count - 1000) < 4.5 * math.sqrt(3000 * (1 / 3) * (2 / 3))


def test_nobody_has_two_byes_in_a_row() -> None:
    texts = [[f"text {i}" for i in range(5)]]
    judge = Judge(texts)
    rank(texts, ranking="tournament_rank", seeds=[4], prefer=judge)
    playing = [{i for _, first, second in games for i in (first, second)} for games in judge.rounds]
    (bye,) = set(range(5)) - playing[0]
    assert bye in playing[1]


def test_equal_texts_are_not_put_to_the_judge_and_the_first_goes_on() -> None:
    def never(games: Sequence[GameToPlay]) -> list[float]:
        message = f"asked about {games}"
        raise AssertionError(message)

    for ranking, ties in (("first_round_rank", 2), ("tournament_rank", 3)):
        found = rank([["same"] * 4], ranking=ranking, seeds=[0], prefer=never)  # type: ignore[arg-type]
        assert found == Ranked(pairs=[[]], left=found.left, comparisons=0, dropped_ties=ties, byes=0)
        assert len(found.left[0]) == 4 - ties


def test_a_judge_that_cannot_tell_yields_no_pair_and_the_first_goes_on() -> None:
    asked: list[GameToPlay] = []

    def undecided(games: Sequence[GameToPlay]) -> list[float]:
        asked.extend(games)
        return [0.5] * len(games)

    found = rank([["a", "b", "c", "d"]], ranking="tournament_rank", seeds=[0], prefer=undecided)
    assert found == Ranked(pairs=[[]], left=[[asked[0][1]]], comparisons=3, dropped_ties=3, byes=0)
    assert asked[2] == (0, asked[0][1], asked[1][1])


@pytest.mark.parametrize("probability", [0.9, 0.1])
def test_the_pair_carries_the_probability_of_the_winner(probability: float) -> None:
    found = rank([["a", "b"]], ranking="first_round_rank", seeds=[0], prefer=lambda games: [probability] * len(games))
    assert found.pairs[0][0].probability == pytest.approx(0.9)


@pytest.mark.parametrize("answer", [math.nan, math.inf, -0.1, 1.1])
def test_an_answer_that_is_no_probability_is_refused(answer: float) -> None:
    prefer: Prefer = lambda games: [answer] * len(games)  # noqa: E731
    with pytest.raises(UserError, match=r"samples \d and \d of prompt number 0 is .*must be a probability"):
        rank([["a", "b"]], ranking="first_round_rank", seeds=[0], prefer=prefer)


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="one entry a prompt, got 1 for 2"):
        rank([["a"], ["b"]], ranking="first_round_rank", seeds=[0], prefer=lambda _: [])
    with pytest.raises(ValueError, match="zip"):
        rank([["a", "b"]], ranking="first_round_rank", seeds=[0], prefer=lambda _: [])
