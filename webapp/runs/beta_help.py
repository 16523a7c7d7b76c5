"""β and γ before they are chosen: what they would do with the rewards that a scoring stage has stored."""

from functools import lru_cache
from itertools import islice
from typing import Any

from rso_core.artifacts import iterate_rows
from rso_core.beta_choice import BetaFigures, figures_by_beta
from rso_core.gamma_choice import GammaFigures, figures_by_gamma
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


_GAMMA_LINES = (
    ("beyond", "pairs that the target policy wants further apart than 1/γ", "--slic"),
    ("decided", "chance that sigmoid_norm gives the preferred one", "--rso"),
    ("labelled", "chance by the rewards", "--dpo"),
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


def gamma_figure(stage: Stage, num_samples: int, beta: float) -> dict[str, Any]:
    """Return a chart of what each γ means for the losses, with pairs of the stage's rewards kept at β."""
    found = _gamma_figures(store().url, stage.digest, num_samples, beta)
    gammas = [item.gamma for item in found]
    heads = ["γ", "1/γ, nats", *(label for _, label, _ in _GAMMA_LINES)]
    return {
        "data": [_gamma_trace(found, *line) for line in _GAMMA_LINES],
        "layout": {
            "height": 300, "showlegend": True,
            "xaxis": {"type": "log", "title": {"text": "γ"}, "tickvals": gammas, "ticktext": [f"{gamma:g}" for gamma in gammas]},
            "yaxis": {"tickformat": ".0%", "range": [0, 1.02]},
        },
        "table": {"heads": heads, "rows": [[item.gamma, item.margin, item.beyond, item.decided, item.labelled] for item in found]},
    }  # fmt: skip


def _gamma_trace(found: list[GammaFigures], name: str, label: str, colour: str) -> dict[str, Any]:
    return {
        "x": [item.gamma for item in found], "y": [getattr(item, name) for item in found], "name": label,
        "mode": "lines+markers", "line": {"color": f"var({colour})", "dash": "dot" if name == "labelled" else "solid"},
        "hovertemplate": f"γ %{{x:g}}<br>{label} %{{y:.1%}}<extra></extra>",
    }  # fmt: skip


@lru_cache(maxsize=64)
def _figures(_: str, digest: str, num_samples: int) -> list[BetaFigures]:
    return figures_by_beta(_rewards(digest), num_samples=num_samples)


@lru_cache(maxsize=64)
def _gamma_figures(_: str, digest: str, num_samples: int, beta: float) -> list[GammaFigures]:
    return figures_by_gamma(_rewards(digest), num_samples=num_samples, beta=beta)


def _rewards(digest: str) -> list[Any]:
    return [row["rewards"] for row in islice(iterate_rows(store().files(digest), ["rewards"]), _PROMPTS)]
