"""β before it is chosen: what it would do with the rewards that a scoring stage has stored."""

from functools import lru_cache
from itertools import islice
from typing import Any

from rso_core.artifacts import iterate_rows
from rso_core.beta_choice import BetaFigures, figures_by_beta
from webapp.accounts.models import User
from webapp.runs.artifacts import store
from webapp.runs.models import Run, Stage, Status

_PROMPTS = 200  # as many as are needed for the second digit
_LINES = (
    ("acceptance", "expected acceptance", "--rso", "y", ":.1%"),
    ("theorem1", "Theorem 1", "--dpo", "y", ":.1%"),
    ("ess", "effective sample size", "--slic", "y2", ":.1f"),
    ("rounds", "rounds", "--raft", "y2", ":.1f"),
)


def visible_scoring(user: User, pk: int) -> Stage | None:
    """Return a finished scoring stage of a run that this person may see."""
    runs = Run.objects.visible_to(user)
    return Stage.objects.filter(pk=pk, kind="scoring", status=Status.DONE, runs__in=runs).distinct().first()


def scoring_of(fingerprints: list[str], user: User) -> Stage | None:
    """Return the finished scoring stage of a plan, if this person may see a run that has it."""
    found = Stage.objects.filter(fingerprint__in=fingerprints, kind="scoring", status=Status.DONE)
    return found.filter(runs__in=Run.objects.visible_to(user)).distinct().first()


def beta_figure(stage: Stage, num_samples: int) -> dict[str, Any]:
    """Return a chart of acceptance, rounds and effective sample size against β, from the stage's rewards."""
    found = _figures(store().url, stage.digest, num_samples)
    traces = [_trace(found, *line) for line in _LINES]
    heads = ["β", *(label for _, label, *_ in _LINES), "mean reward of the kept", "kept that top-k would not keep"]
    rows = [
        [item.beta, item.acceptance, item.theorem1, item.ess, item.rounds, item.mean_reward, item.distinct_from_top]
        for item in found
    ]
    return {
        "data": traces,
        "layout": {
            "height": 300, "showlegend": True, "margin": {"r": 48},
            "xaxis": {"type": "log", "title": {"text": "β"}, "tickvals": [item.beta for item in found],
                      "ticktext": [f"{item.beta:g}" for item in found]},
            "yaxis": {"tickformat": ".0%", "rangemode": "tozero", "title": {"text": "accepted"}},
            "yaxis2": {"overlaying": "y", "side": "right", "rangemode": "tozero", "showgrid": False, "title": {"text": "candidates, rounds"}},
        },
        "table": {"heads": heads, "rows": rows},
    }  # fmt: skip


def _trace(found: list[BetaFigures], name: str, label: str, colour: str, axis: str, form: str) -> dict[str, Any]:
    return {
        "x": [item.beta for item in found], "y": [getattr(item, name) for item in found], "name": label, "yaxis": axis,
        "mode": "lines+markers", "line": {"color": f"var({colour})", "dash": "solid" if axis == "y" else "dot"},
        "hovertemplate": f"β %{{x:g}}<br>{label} %{{y{form}}}<extra></extra>",
    }  # fmt: skip


@lru_cache(maxsize=64)
def _figures(_: str, digest: str, num_samples: int) -> list[BetaFigures]:
    rows = islice(iterate_rows(store().files(digest), ["rewards"]), _PROMPTS)
    return figures_by_beta([row["rewards"] for row in rows], num_samples=num_samples)
