"""What a run would do, before it is launched: stages, work, time, warnings, and what truncation would touch."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

from rso_core.config import RunConfig, dump_run_config
from rso_core.plan import Plan
from rso_core.vocabulary import canonical_json
from webapp.accounts.models import User
from webapp.runs import services
from webapp.runs.beta_help import scoring_of
from webapp.runs.estimates import expected_seconds, measured_speeds, work_units
from webapp.runs.models import Stage, Status
from webapp.runs.progress import stage_title

_FEW_TEST_PROMPTS = 100
_WIDEST = 0.98  # half the 95 % interval of a rate of ½ from one prompt


@dataclass(frozen=True)
class PreviewStage:
    """One stage of the plan: what it will do, and how long that is expected to take."""

    title: str
    work: str
    state: str  # a status, or "new"
    seconds: float | None
    shards: int

    @property
    def is_done(self) -> bool:
        """Return whether the stage will be reused as it is."""
        return self.state == Status.DONE


@dataclass(frozen=True)
class Preview:
    """A plan as the page shows it. `digest` identifies the settings it was made from."""

    stages: tuple[PreviewStage, ...]
    counts: Mapping[str, int]
    warnings: tuple[str, ...]
    profile: Stage
    recipe: str
    digest: str
    scoring: Stage | None  # rewards that are known already: what β would do with them can be shown
    num_samples: int
    beta: float | str  # "inf" where it is infinite, as in a recipe

    @property
    def to_do(self) -> list[PreviewStage]:
        """Return the stages that nobody has done yet."""
        return [stage for stage in self.stages if not stage.is_done]

    @property
    def known_seconds(self) -> float:
        """Return the expected time of those stages to do that were measured before."""
        return sum(stage.seconds for stage in self.to_do if stage.seconds is not None)

    @property
    def unknown(self) -> int:
        """Return how many stages to do were never measured."""
        return sum(stage.seconds is None for stage in self.to_do)


def make_preview(config: RunConfig, user: User) -> Preview:
    """Return the preview of a run, asking for its length profile. Raises UserError when the plan is impossible."""
    plan, _, statuses = services.preview_plan(config=config, user=user)
    profile = services.request_profile(plan=plan)
    speeds, units = measured_speeds(config.model.base), work_units(config, plan)
    stages = tuple(
        PreviewStage(
            stage_title(stage.key, stage.title), stage.work, statuses.get(stage.fingerprint, "new"),
            expected_seconds(stage.kind, units.get(stage.fingerprint), speeds), stage.shards,
        )
        for stage in plan.stages if stage.kind != "length_profile"
    )  # fmt: skip
    warnings = (*plan.warnings, *_warnings(config, plan))
    scoring = scoring_of([stage.fingerprint for stage in plan.stages], user)
    chosen = config.rejection_sampling.model_dump(mode="json")
    return Preview(
        stages, plan.counts, warnings, profile, dump_run_config(config), digest_of(config), scoring,
        chosen["num_samples"], chosen["beta"],
    )  # fmt: skip


def digest_of(config: RunConfig) -> str:
    """Return the identifier of settings: equal settings share it."""
    return hashlib.sha256(canonical_json(config.model_dump(mode="json")).encode()).hexdigest()[:16]


def _warnings(config: RunConfig, plan: Plan) -> list[str]:
    counts, found = plan.counts, []
    tests = counts["test_prompts"]
    if tests < _FEW_TEST_PROMPTS:
        half = 100 * _WIDEST / math.sqrt(tests)
        found.append(f"Only {tests} test prompts: a win rate will have an interval of about ± {half:.0f} points.")
    if not counts["preference_test_pairs"]:
        found.append("No preference pair is in the test split: the accuracy of the reward model will not be measured.")
    if config.pairs.pair_source == "direct" and config.sampling.max_prompts:
        found.append("sampling.max_prompts has no effect: direct pairs need no candidates.")
    if (
        config.fitting.enabled
        and config.fitting.select_by == "proxy_win_rate"
        and counts["validation_prompts"] < _FEW_TEST_PROMPTS
    ):
        found.append(
            f"The checkpoint is selected on {counts['validation_prompts']} validation prompts: expect its choice to be noisy."
        )
    return found
