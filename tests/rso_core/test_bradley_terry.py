import choix
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rso_core.bradley_terry import PRIOR, Games, fit, games_of, leaderboard
from rso_core.ratings import SAME, Numbers

win_tables = st.integers(2, 5).flatmap(
    lambda n: st.lists(st.lists(st.integers(0, 6), min_size=n, max_size=n), min_size=n, max_size=n)
)


def played(strengths: Numbers, games: int, seed: int, *, ties: float = 0.0) -> Games:
    """Return games of two or three systems drawn from known strengths, best of all."""
    generator = np.random.default_rng(seed)
    shown, choice = [], []
    for _ in range(games):
        some = generator.permutation(len(strengths))[:2].tolist()
        ahead = 1 / (1 + np.exp(strengths[some[1]] - strengths[some[0]]))
        shown.append(some)
        choice.append(SAME if generator.random() < ties else int(generator.random() > ahead))
    return games_of(shown, choice, list(range(games)))


def test_the_chosen_of_three_beats_the_others_and_same_is_half_a_win_for_each() -> None:
    games = games_of([[4, 0, 2], [1, 3], [0, 1, 2]], [1, 0, SAME], [7, 8, 9])
    rows = zip(games.first.tolist(), games.second.tolist(), games.outcome.tolist(), games.cluster, strict=True)
    assert list(rows) == [
        (0, 4, 1, 7), (0, 2, 1, 7), (1, 3, 1, 8), (0, 1, 0.5, 9), (0, 2, 0.5, 9), (1, 2, 0.5, 9),
    ]  # fmt: skip


def test_a_system_does_not_play_itself() -> None:
    assert len(games_of([[1, 1, 2], [1, 1]], [0, SAME], [0, 1]).first) == 1


@given(table=win_tables)
@settings(max_examples=15, deadline=None)
def test_strengths_are_choixs_maximum_with_the_same_prior(table: list[list[int]]) -> None:
    wins = np.array(table, dtype=np.float64)
    np.fill_diagonal(wins, 0)
    games = [pair for i, row in enumerate(wins) for j, times in enumerate(row) for pair in [(i, j)] * int(times)] or [
        (0, 1)
    ]
    wins[0, 1] += 0 if wins.any() else 1
    theirs = choix.opt_pairwise(len(wins), games, alpha=PRIOR, method="Newton-CG", tol=1e-12)
    assert fit(wins) == pytest.approx(theirs - theirs.mean(), abs=1e-4)


def test_a_tie_counts_as_half_a_win_each_as_if_every_game_were_played_twice() -> None:
    halves = np.array([[0, 2.5], [1.5, 0]])
    games = [(0, 1)] * 5 + [(1, 0)] * 3
    assert fit(halves) == pytest.approx(choix.opt_pairwise(2, games, alpha=2 * PRIOR), abs=1e-5)


def test_an_unbeaten_system_is_finite_where_choix_stops() -> None:
    games = [(0, 1)] * 5 + [(0, 2)] * 5 + [(1, 2)] * 2 + [(2, 1)]
    with pytest.raises((RuntimeError, ValueError)):
        choix.ilsr_pairwise(3, games)
    wins = np.array([[0, 5, 5], [0, 0, 2], [0, 1, 0]], dtype=np.float64)
    strengths = fit(wins)
    assert np.isfinite(strengths).all()
    assert strengths.argmax() == 0
    assert np.isfinite(fit(wins * 1e5, prior=1e-6)).all()


def test_with_a_weak_prior_known_strengths_are_found_again() -> None:
    true = np.array([1.0, 0.2, -0.4, -0.8])
    games = played(true, 8000, seed=1)
    wins = np.zeros((4, 4))
    np.add.at(wins, (games.first, games.second), games.outcome)
    assert fit(wins, prior=1e-6) == pytest.approx(true, abs=0.12)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    true = np.array([0.6, 0.0, -0.6])
    held = []
    for seed in range(60):
        board = leaderboard(played(true, 120, seed, ties=0.0), 3, seed=seed, draws=200)
        held += [s.low <= t <= s.high for s, t in zip(board.systems, true, strict=True)]
    assert np.mean(held) >= 0.9


def test_the_leaderboard_counts_games_wins_and_expected_wins() -> None:
    board = leaderboard(games_of([[0, 1]] * 4, [0, 0, 1, SAME], [1, 2, 3, 4]), 2, seed=0)
    first, second = board.systems
    assert (first.games, first.won, second.won, board.games) == (4, 2.5, 1.5, 4)
    assert first.win_rate == pytest.approx(1 / (1 + np.exp(second.strength - first.strength)))
    assert first.win_rate + second.win_rate == pytest.approx(1)
    assert first.strength == pytest.approx(-second.strength)
    assert board.connected


def test_a_system_that_won_everything_has_an_interval_with_a_width() -> None:
    first = leaderboard(games_of([[0, 1]] * 6, [0] * 6, range(6)), 2, seed=0).systems[0]
    assert first.low < first.strength < first.high
    assert first.high - first.low > 1


def test_systems_that_never_met_are_not_connected() -> None:
    assert not leaderboard(games_of([[0, 1], [2, 3]], [0, 0], [0, 1]), 4, seed=0).connected
    assert leaderboard(games_of([[0, 1], [2, 3], [1, 2]], [0, 0, 0], [0, 1, 2]), 4, seed=0).connected
    assert not leaderboard(games_of([[0, 1]], [0], [0]), 3, seed=0).connected


def test_nothing_played_gives_no_order() -> None:
    board = leaderboard(games_of([], [], []), 3, seed=0)
    assert [system.strength for system in board.systems] == [0, 0, 0]
    assert not board.connected
    assert leaderboard(games_of([], [], []), 1, seed=0).systems[0].win_rate == 0.5


def test_the_prior_must_be_above_zero() -> None:
    with pytest.raises(ValueError, match="`prior` must be above 0"):
        fit(np.zeros((2, 2)), prior=0)
