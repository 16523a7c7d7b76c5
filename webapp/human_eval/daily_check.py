"""The daily check of all campaigns. What it finds is an entry of the audit log, and an alarm on the admins' first page."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils import timezone

from webapp.accounts.audit import record
from webapp.accounts.models import AuditEntry
from webapp.human_eval.invariants import broken_rules
from webapp.human_eval.models import Campaign

CHECK = "all campaigns"  # the kind of its entries
EVERY = timedelta(days=1)
_KEPT = 50  # findings in an entry; the rest is counted


@dataclass(frozen=True)
class Check:
    """When campaigns were looked at last, how many there were, and what did not fit."""

    at: datetime
    campaigns: int
    count: int
    findings: list[str]  # the first ones


def findings_in(campaigns: Iterable[Campaign]) -> list[str]:
    """Return a sentence for every rule that does not hold of a campaign."""
    return [f"{campaign}: {broken}" for campaign in campaigns for broken in broken_rules(campaign)]


def check_when_due() -> bool:
    """Look at all campaigns unless that was done in the last day; return whether it was done now.

    The scheduler starts from nothing with the product, so a day of its own might never be over: it asks every hour.
    """
    last = last_check()
    if last is not None and timezone.now() - last.at < EVERY:
        return False
    campaigns = list(Campaign.objects.order_by("pk"))
    found = findings_in(campaigns)
    record(None, "checked", CHECK, campaigns=len(campaigns), count=len(found), findings=found[:_KEPT])
    return True


def last_check() -> Check | None:
    """Return the last check, None before the first one."""
    entry = AuditEntry.objects.filter(kind=CHECK).order_by("-pk").first()
    return Check(at=entry.at, **entry.details) if entry is not None else None
