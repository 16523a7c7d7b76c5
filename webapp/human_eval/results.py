"""The figures of a campaign, computed once for each state of its answers, however many people look at them.

The figures are a mapping of JSON values, kept in a `ResultsSnapshot`. Its key names the state of the answers and the
options, so that an answer, a change of one, an exclusion or its lifting makes new figures and those of older states
are thrown away. Whoever comes first computes under an advisory lock of PostgreSQL; the others wait and read.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connection, transaction
from django.utils import timezone

from rso_core.errors import UserError
from webapp.human_eval.figures import figures_of
from webapp.human_eval.models import Campaign, ResultsSnapshot
from webapp.human_eval.results_data import read_checks, read_ratings, state_of

_COMPUTING = 1378293  # first key of the advisory lock; the second is the campaign's
_PATIENCE = 10  # while answers stream in, figures are computed again after so many times what computing took


@dataclass(frozen=True)
class Options:
    """What a viewer may choose. Every choice has figures of its own."""

    leave_out_identical: bool = False

    def key(self, state: str) -> str:
        """Return the key of the snapshot with these options."""
        return f"{state}-{'distinct' if self.leave_out_identical else 'all'}"


@dataclass(frozen=True)
class Figures:
    """Computed figures; empty while no answer counts, and then `reason` says why."""

    values: Mapping[str, Any]
    made: datetime
    seconds: float
    reason: str = ""


def campaign_figures(campaign: Campaign, options: Options, *, may_be_older: bool = False) -> Figures:
    """Return the figures of a campaign, computed now if nobody has since its answers changed.

    With `may_be_older`, for polling viewers while raters answer, figures of a moment ago will do: those not older than
    ten times what computing them took.
    """
    state = state_of(campaign)
    found = _snapshot(campaign, options.key(state)) or (_recent(campaign, options) if may_be_older else None)
    if found is None:
        found = _computed(campaign, options)
    return Figures(found.values["figures"], found.made, found.seconds, found.values["reason"])


def _snapshot(campaign: Campaign, key: str) -> ResultsSnapshot | None:
    return ResultsSnapshot.objects.filter(campaign=campaign, key=key).first()


def _recent(campaign: Campaign, options: Options) -> ResultsSnapshot | None:
    mine = ResultsSnapshot.objects.filter(campaign=campaign, key__endswith=options.key(""))
    latest = mine.order_by("-made").first()
    fresh_for = timedelta(seconds=_PATIENCE * latest.seconds) if latest else timedelta()
    return latest if latest and timezone.now() - latest.made < fresh_for else None


def _computed(campaign: Campaign, options: Options) -> ResultsSnapshot:
    """Compute and keep the figures, unless somebody else has done so while this waited for the lock."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [_COMPUTING, campaign.pk])
        state = state_of(campaign)  # read after waiting: the answers may have moved on
        found = _snapshot(campaign, options.key(state))
        if found is not None:
            return found
        started = time.monotonic()
        values = _values(campaign, options)
        ResultsSnapshot.objects.filter(campaign=campaign).exclude(key__startswith=state).delete()
        return ResultsSnapshot.objects.create(
            campaign=campaign, key=options.key(state), values=values, seconds=time.monotonic() - started
        )


def _values(campaign: Campaign, options: Options) -> dict[str, Any]:
    ratings, checks = read_ratings(campaign), read_checks(campaign)
    try:
        figures = figures_of(campaign, ratings, checks, leave_out_identical=options.leave_out_identical)
    except UserError as error:
        return {"figures": {}, "reason": str(error)}
    return {"figures": figures, "reason": ""}
