"""Simulate campaigns of which the truth is known, and count how often the results' intervals and tests are right.

    python benchmarks/human_eval_coverage.py [--campaigns 4000] [--draws 2000] [--seed 1] [--worlds 1 2 …] [--save FILE]

A prompt has its own chances of a vote for each system (Dirichlet, concentration 4) and its own difficulty; a rater has
a severity, the same for all systems. Everything is computed by `rso_core.human_eval`, as for the results page. Prints
one JSON line per world and one with the verdict; exits with 1 when a figure lies outside its limits: coverage of the
95 % intervals 93.5 to 96.5 %, rejections of the truth by the unadjusted pairwise test 3.5 to 6.5 %, and by any of the
pairs after Holm at most 6.5 %.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from math import comb, erf, prod, sqrt
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":  # a script finds its own folder, not the project's
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from rso_core.agreement import choice_agreement
from rso_core.human_eval import Interval, Ratings, Results, results
from rso_core.human_eval_power import Assumptions, overall_shares
from rso_core.rating_bias import length_bias, position_bias
from rso_core.ratings import Numbers

COVERAGE = (0.935, 0.965)
COVERAGE_OF_COUNTS = (
    0.925,
    0.985,
)  # “no majority” in 100 items is a count: exact coverage moves in steps with the truth
REJECTION = (0.035, 0.065)
FAMILY_WISE = 0.065
BATCH = 50  # campaigns that a process simulates at a time
# Latent quality: standard deviations of what belongs to the prompt, to the response, and to nothing.
PROMPT, RESPONSE, NOISE = 0.5, 0.6, 0.8
MEAN_QUALITY = 3.2

_Job = tuple["World", int, int, tuple[int, ...]]  # campaigns, draws, seed


@dataclass(frozen=True, kw_only=True)
class World:
    """What is true: the gap in vote share (quality is apart by as many points), how prompts, raters and answers are."""

    name: str
    items: int
    gap: float = 0.0
    systems: int = 3
    replicas: int = 3
    same_share: float = 0.1
    concentration: float = 4.0
    raters: int = 20
    severity: float = 0.3  # standard deviation over raters
    items_per_root: int = 1  # items of a root have the same chances and difficulty
    lost: float = 0.0  # share of answers that are not counted

    @property
    def shares(self) -> Numbers:
        """The systems' overall vote shares."""
        assumptions = Assumptions(systems=self.systems, same_share=self.same_share, concentration=self.concentration)
        return np.array(overall_shares(self.gap, assumptions)) * (1 - self.same_share)

    @property
    def levels(self) -> Numbers:
        """The systems' mean latent qualities."""
        return MEAN_QUALITY + np.array([self.gap] + [0.0] * (self.systems - 1))


@dataclass(frozen=True, eq=False)
class Truth:
    """What a campaign estimates: with these raters and, in the last two, with any raters."""

    vote_share: Numbers
    same_share: float
    chosen: Numbers
    same: float
    quality: Numbers
    alpha: float
    quality_any_rater: Numbers


WORLDS = (
    World(name="identical, 100 prompts", items=100),
    World(name="identical, 200 prompts", items=200),
    World(name="10 points apart, 100 prompts", items=100, gap=0.1),
    World(name="10 points apart, 200 prompts", items=200, gap=0.1),
    World(name="identical, 200 prompts in 100 roots, 10 % of answers lost", items=200, items_per_root=2, lost=0.1),
    World(name="two-way, identical, 100 prompts", items=100, systems=2),
    World(name="identical, 12 prompts", items=12),
    World(name="identical, 100 prompts, 5 severe and mild raters", items=100, raters=5, severity=0.6),
)
# In these two it is shown, not promised: so few prompts; so few raters that the two-way interval is the point.
NOT_PROMISED = frozenset({WORLDS[6].name, WORLDS[7].name})


def campaign(world: World, generator: np.random.Generator) -> tuple[Ratings, Truth]:
    """Return the answers of one campaign and the truth about it."""
    roots = np.repeat(np.arange(-(-world.items // world.items_per_root)), world.items_per_root)[: world.items]
    severity = generator.normal(0, world.severity, world.raters)
    rater = np.argsort(generator.random((world.items, world.raters)), axis=1)[:, : world.replicas]
    item = np.repeat(np.arange(world.items), world.replicas)
    chances = generator.dirichlet(_concentrations(world), roots.max() + 1)[roots]
    kept = generator.random(len(item)) >= world.lost
    ratings = Ratings(
        item=item,
        rater=rater.ravel(),
        item_root=roots[item],
        quality=_quality(world, roots, severity[rater.ravel()], generator),
        choice=_choices(world, chances[item], generator),
        order=_orders(world, generator),
        length=np.floor(generator.uniform(20, 200, (world.items, world.systems)))[item],
    )
    return ratings.rows(kept), truth(world, severity)


def truth(world: World, severity: Numbers) -> Truth:
    """Return what a campaign with raters of these severities estimates."""
    own = sqrt(PROMPT**2 + RESPONSE**2 + NOISE**2)
    same = world.same_share
    together = (_concentrations(world) + 1) / (world.concentration + 1) * world.shares * (1 - same)  # E[chance²]
    observed = 1 - together.sum() - same**2
    return Truth(
        vote_share=world.shares,
        same_share=same,
        chosen=np.array([_chance_of_majority(world, share) for share in world.shares]),
        same=_mix(world, lambda k: sum(comb(k, n) * same**n * (1 - same) ** (k - n) for n in range(k // 2 + 1, k + 1))),
        quality=_mean_quality(world.levels[:, None] + severity, own).mean(axis=1),
        alpha=float(1 - observed / (1 - (world.shares**2).sum() - same**2)),
        quality_any_rater=_mean_quality(world.levels, sqrt(own**2 + world.severity**2)),
    )


def judge(found: Results, ratings: Ratings, true: Truth) -> dict[str, list[bool]]:
    """Return by quantity whether each of its intervals holds the truth, and whether each test rejects it."""
    right: dict[str, list[bool]] = defaultdict(list)
    for number, system in enumerate(found.systems):
        right["quality"].append(_holds(system.quality, true.quality[number]))
        right["vote share"].append(_holds(system.vote_share, true.vote_share[number]))
        right["chosen"].append(_holds(system.chosen, true.chosen[number]))
        if system.quality_two_way:
            right["quality, any rater, two-way"].append(_holds(system.quality_two_way, true.quality_any_rater[number]))
            right["quality, any rater, by prompt only"].append(_holds(system.quality, true.quality_any_rater[number]))
    right["same, share of votes"] = [_holds(found.same_share, true.same_share)]
    right["same, chosen"] = [_holds(found.same, true.same)]
    right["no majority"] = [_holds(found.no_majority, 1 - true.chosen.sum() - true.same)]
    for pair in found.pairs:
        values = true.vote_share if pair.measure == "vote_share" else true.quality
        name = pair.measure.replace("_", " ")
        difference = values[pair.first] - values[pair.second]
        right[f"{name} difference"].append(_holds(pair.difference, difference))
        if pair.two_way:
            right[f"{name} difference, two-way"].append(_holds(pair.two_way, difference))
        alike = abs(difference) < 1e-12  # noqa: PLR2004 - the same numbers, summed
        right[f"{name} rejected" if alike else f"{name} seen"].append(pair.p < 1 - 0.95)
        right[f"{name} rejected by Holm" if alike else f"{name} seen by Holm"].append(pair.p_holm < 1 - 0.95)
    alpha = choice_agreement(ratings).alpha
    if alpha.low is not None and alpha.high is not None:
        right["alpha of choices"] = [alpha.low <= true.alpha <= alpha.high]
    right["position rejected"] = [(position_bias(ratings).p or 0) < 1 - 0.95]
    right["length rejected"] = [(length_bias(ratings).p or 0) < 1 - 0.95]
    return right


def simulate(world: World, *, campaigns: int, draws: int, seed: int) -> dict[str, float]:
    """Return by quantity the share of intervals that hold the truth, and of tests that reject it."""
    batches: list[_Job] = [
        (world, min(BATCH, campaigns - start), draws, (seed, WORLDS.index(world) if world in WORLDS else 0, start))
        for start in range(0, campaigns, BATCH)
    ]
    counted: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for batch in _batches(batches):
        for name, (hits, cases) in batch.items():
            counted[name][0] += hits
            counted[name][1] += cases
    return {name: hits / cases for name, (hits, cases) in counted.items()}


def faults(world: World, shares: dict[str, float]) -> list[str]:
    """Return what lies outside the limits."""
    if world.name in NOT_PROMISED:
        return []
    found = []
    for name, share in shares.items():
        low, high = 0.0, 1.0
        if name == "no majority":
            low, high = COVERAGE_OF_COUNTS
        elif name in {"quality", "vote share", "chosen"} or name.endswith(" difference"):
            low, high = COVERAGE
        elif name.endswith(" rejected") and name not in {"position rejected", "length rejected"}:
            low, high = REJECTION
        elif name.endswith(", any pair by Holm"):
            high = FAMILY_WISE
        if not low <= share <= high:
            found.append(f"{world.name}: {name} {share:.4f}, wanted {low} to {high}")
    return found


def main() -> int:
    """Simulate every world; print, save and judge the shares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--campaigns", type=int, default=4000)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--worlds", type=int, nargs="+", default=range(1, len(WORLDS) + 1), help="numbers from 1")
    parser.add_argument("--save", type=Path)
    options = parser.parse_args()
    every, wrong = [], []
    for world in [WORLDS[number - 1] for number in options.worlds]:
        begun = time.perf_counter()
        shares = simulate(world, campaigns=options.campaigns, draws=options.draws, seed=options.seed)
        seconds = round(time.perf_counter() - begun, 1)
        every.append({"world": asdict(world), "seconds": seconds, "shares": shares})
        wrong += faults(world, shares)
        print(json.dumps(every[-1], ensure_ascii=False), flush=True)
    about: dict[str, Any] = {
        "campaigns": options.campaigns,
        "draws": options.draws,
        "seed": options.seed,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "faults": wrong,
    }
    print(json.dumps(about, ensure_ascii=False))
    if options.save:
        options.save.write_text(json.dumps(about | {"worlds": every}, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return 1 if wrong else 0


def _batch(job: _Job) -> dict[str, tuple[int, int]]:
    world, campaigns, draws, seed = job
    generator = np.random.default_rng(seed)
    counted: dict[str, list[bool]] = defaultdict(list)
    for _ in range(campaigns):
        ratings, true = campaign(world, generator)
        found = results(ratings, seed=int(generator.integers(1 << 31)), draws=draws)
        right = judge(found, ratings, true)
        for name in [name for name in right if name.endswith(" rejected by Holm")]:
            counted[name.replace(" rejected by Holm", ", any pair by Holm")].append(any(right[name]))
        for name, cases in right.items():
            counted[name] += cases
    return {name: (sum(cases), len(cases)) for name, cases in counted.items()}


def _batches(jobs: list[_Job]) -> Iterator[dict[str, tuple[int, int]]]:
    if len(jobs) == 1:
        yield _batch(jobs[0])
        return
    with ProcessPoolExecutor() as pool:
        yield from pool.map(_batch, jobs)


def _concentrations(world: World) -> Numbers:
    return world.concentration * world.shares / (1 - world.same_share)


def _quality(world: World, roots: Any, severity: Numbers, generator: np.random.Generator) -> Numbers:
    prompt = generator.normal(0, PROMPT, roots.max() + 1)[roots]
    response = world.levels + prompt[:, None] + generator.normal(0, RESPONSE, (world.items, world.systems))
    by_answer = np.repeat(response, world.replicas, axis=0) + severity[:, None]
    return np.clip(np.round(by_answer + generator.normal(0, NOISE, by_answer.shape)), 1, 5)


def _choices(world: World, chances: Numbers, generator: np.random.Generator) -> Any:
    drawn = (generator.random((len(chances), 1)) > np.cumsum(chances, axis=1)[:, :-1]).sum(axis=1)
    return np.where(generator.random(len(chances)) < world.same_share, -1, drawn)


def _orders(world: World, generator: np.random.Generator) -> Any:
    """Return for each answer its row of a cyclic square of a random order of the item's."""
    base = np.argsort(generator.random((world.items, world.systems)), axis=1)
    columns = (np.arange(world.systems) + np.arange(world.replicas)[:, None]) % world.systems
    return base[:, columns].reshape(-1, world.systems)


def _mean_quality(level: Numbers, deviation: float) -> Numbers:
    """Return the mean of a normal latent quality rounded to 1 … 5."""
    above = [0.5 - 0.5 * np.vectorize(erf)((edge - level) / deviation / sqrt(2)) for edge in (1.5, 2.5, 3.5, 4.5)]
    return np.asarray(1 + sum(above))


def _mix(world: World, of_votes: Any) -> float:
    """Return the mean of a function of an item's number of votes, over the items that have any."""
    kept = 1 - world.lost
    chances = [
        comb(world.replicas, k) * kept**k * world.lost ** (world.replicas - k) for k in range(1, world.replicas + 1)
    ]
    return float(sum(c * of_votes(k) for k, c in enumerate(chances, start=1)) / sum(chances))


def _chance_of_majority(world: World, share: float) -> float:
    """Return the chance that a system gets more than half of an item's votes."""
    decided = 1 - world.same_share
    first, both = world.concentration * share / decided, world.concentration

    def moment(power: int) -> float:
        return float(decided**power * prod((first + i) / (both + i) for i in range(power)))

    def exactly(n: int, votes: int) -> float:
        rest = votes - n
        return comb(votes, n) * sum(float((-1) ** j) * comb(rest, j) * moment(n + j) for j in range(rest + 1))

    return _mix(world, lambda votes: sum(exactly(n, votes) for n in range(votes // 2 + 1, votes + 1)))


def _holds(interval: Interval, value: float) -> bool:
    return interval.low - 1e-12 <= value <= interval.high + 1e-12


if __name__ == "__main__":
    sys.exit(main())
