"""What the page of a campaign shows: how much is rated, how fast, by whom, and what needs its researcher."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

from django.db.models import Count, Exists, F, Max, Min, OuterRef, Q, QuerySet
from django.db.models.functions import Now
from django.urls import reverse
from django.utils import timezone

from webapp.accounts.models import Role, User
from webapp.human_eval.launching import missing_responses, what_is_missing
from webapp.human_eval.models import (
    Answer,
    Campaign,
    Flag,
    Invitation,
    Item,
    PanelLink,
    Response,
    Slot,
    System,
)
from webapp.runs.models import UNSUCCESSFUL

_WINDOW = timedelta(hours=1)
_SHORTEST = timedelta(minutes=5)  # below, a rate says more about the start than about the work


@dataclass(frozen=True)
class Progress:
    """Slots of counted items by state, and how fast answers come in."""

    submitted: int
    leased: int
    open: int
    complete_items: int
    items: int
    raters_now: int
    raters: int
    per_hour: float | None  # of the last hour
    last_answer: datetime | None

    @property
    def wanted(self) -> int:
        """Return how many answers there will be."""
        return self.submitted + self.leased + self.open

    @property
    def share(self) -> float:
        """Return the share of answers that are there, in [0, 1]."""
        return self.submitted / self.wanted if self.wanted else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Return how long the rest takes at the rate of the last hour, None when nothing came in it."""
        left = self.wanted - self.submitted
        return 3600 * left / self.per_hour if self.per_hour and left else None


def progress_of(campaign: Campaign) -> Progress:
    """Return how far a campaign is, in a fixed number of queries. A lease that has run out counts as open."""
    slots = Slot.objects.filter(campaign=campaign, item__kind=Item.Kind.MAIN)
    live = Q(status=Slot.Status.LEASED, lease_expires__gte=Now())
    counts = slots.aggregate(
        submitted=Count("pk", filter=Q(status=Slot.Status.SUBMITTED)),
        leased=Count("pk", filter=live),
        open=Count("pk", filter=Q(status=Slot.Status.OPEN) | Q(status=Slot.Status.LEASED) & ~live),
        raters_now=Count("rater", filter=live, distinct=True),
    )
    answers = Answer.objects.filter(campaign=campaign, item__kind=Item.Kind.MAIN)
    seen = answers.aggregate(last=Max("submitted"), raters=Count("rater", distinct=True))
    items = Item.objects.filter(campaign=campaign, kind=Item.Kind.MAIN)
    unfinished = slots.filter(item=OuterRef("pk")).exclude(status__in=[Slot.Status.SUBMITTED, Slot.Status.VOID])
    complete = items.filter(~Exists(unfinished)).count() if campaign.opened else 0
    return Progress(
        submitted=counts["submitted"],
        leased=counts["leased"],
        open=counts["open"],
        complete_items=complete,
        items=items.count(),
        raters_now=counts["raters_now"],
        raters=seen["raters"],
        per_hour=_per_hour(answers),
        last_answer=seen["last"],
    )


def _per_hour(answers: QuerySet[Answer]) -> float | None:
    """Return the rate of the last hour: over the time since its first answer, but never over a few minutes."""
    recent = answers.filter(submitted__gte=Now() - _WINDOW).aggregate(count=Count("pk"), first=Min("submitted"))
    if not recent["count"]:
        return None
    spent = min(_WINDOW, max(_SHORTEST, timezone.now() - recent["first"]))
    return float(recent["count"] * _WINDOW / spent)


@dataclass(frozen=True)
class Doubts:
    """Items of which a researcher may want to look at the responses."""

    named: int  # responses that name a system or vendor
    named_items: int
    empty: int  # responses without text
    empty_items: int
    identical_items: int  # items with responses that are the same text
    truncated: int  # responses cut at the token limit
    responses: int

    @property
    def named_share(self) -> float:
        """Return the share of responses that name a system or vendor."""
        return self.named / self.responses if self.responses else 0.0


DOUBTS = {
    "named": "a response names a system or vendor",
    "empty": "a response is empty",
    "identical": "responses are the same text",
    "missing": "a response is missing",
}


def doubts_of(campaign: Campaign) -> Doubts:
    """Return how many responses of counted items are in doubt, and why."""
    if campaign.status == Campaign.Status.DRAFT:
        return _counted_doubts(campaign)
    return _remembered_doubts(campaign, _responses(campaign).count())


@lru_cache(maxsize=64)  # responses of a campaign that was opened are never changed, and its page is polled
def _remembered_doubts(campaign: Campaign, _responses: int) -> Doubts:
    return _counted_doubts(campaign)


def _counted_doubts(campaign: Campaign) -> Doubts:
    unnamed, silent = Q(named=""), Q(text="")
    found = _responses(campaign).aggregate(
        all=Count("pk"),
        naming=Count("pk", filter=~unnamed),
        naming_items=Count("item", filter=~unnamed, distinct=True),
        silent=Count("pk", filter=silent),
        silent_items=Count("item", filter=silent, distinct=True),
        cut=Count("pk", filter=Q(truncated=True)),
    )
    return Doubts(
        named=found["naming"],
        named_items=found["naming_items"],
        empty=found["silent"],
        empty_items=found["silent_items"],
        identical_items=doubtful_items(campaign, "identical").count(),
        truncated=found["cut"],
        responses=found["all"],
    )


def _responses(campaign: Campaign) -> QuerySet[Response]:
    return Response.objects.filter(item__campaign=campaign, item__kind=Item.Kind.MAIN)


def doubtful_items(campaign: Campaign, doubt: str) -> QuerySet[Item]:
    """Return the counted items with a doubt of `DOUBTS`."""
    items = Item.objects.filter(campaign=campaign, kind=Item.Kind.MAIN).order_by("index")
    if doubt == "named":
        return items.filter(Exists(Response.objects.filter(item=OuterRef("pk")).exclude(named="")))
    if doubt == "empty":
        return items.filter(Exists(Response.objects.filter(item=OuterRef("pk"), text="")))
    if doubt == "missing":
        return items.annotate(there=Count("responses")).filter(there__lt=campaign.way)
    twins = Response.objects.filter(item=OuterRef("item"), text=OuterRef("text"), index__lt=OuterRef("index"))
    return items.filter(pk__in=_responses(campaign).filter(Exists(twins)).values("item"))


@dataclass(frozen=True)
class SystemRow:
    """A system with how many of its responses are there and what the rest waits for."""

    system: System
    missing: int
    total: int

    @property
    def there(self) -> int:
        """Return how many responses there are."""
        return self.total - self.missing

    @property
    def failed(self) -> bool:
        """Return whether the sampling of the rest has ended without a result."""
        stage = self.system.stage
        return bool(self.missing and stage is not None and stage.status in UNSUCCESSFUL)

    @property
    def sampling(self) -> bool:
        """Return whether the rest is being sampled, or waits for a worker."""
        return bool(self.missing and self.system.stage is not None and not self.failed)

    @property
    def unasked(self) -> bool:
        """Return whether nobody samples the rest, as somebody stopped it."""
        return bool(self.missing and self.system.run_id and self.system.stage is None)

    @property
    def wants_file(self) -> bool:
        """Return whether somebody must upload the rest."""
        return bool(self.missing and self.system.kind == System.Kind.FILE)


def system_rows(campaign: Campaign) -> list[SystemRow]:
    """Return the systems of a campaign in their order."""
    total = Item.objects.filter(campaign=campaign, kind=Item.Kind.MAIN).count()
    missing = {system.pk: count for system, count in missing_responses(campaign)}
    systems = campaign.systems.select_related("run", "run__owner", "stage").prefetch_related("stage__shards")
    return [SystemRow(system, missing.get(system.pk, 0), total) for system in systems]


@dataclass(frozen=True)
class Need:
    """Something only the researcher can do, with where to do it."""

    text: str
    url: str = ""
    word: str = ""


def needs_of(campaign: Campaign, progress: Progress, doubts: Doubts) -> Sequence[Need]:
    """Return what needs the researcher, most urgent first."""
    if campaign.status == Campaign.Status.DRAFT:
        return [*_of_draft(campaign), *_of_doubts(campaign, doubts)]
    return [*_of_access(campaign), *_of_progress(campaign, progress), *_of_flags(campaign)]


def _of_draft(campaign: Campaign) -> Iterator[Need]:
    for row in system_rows(campaign):
        if row.wants_file:
            url = reverse("campaign_upload", args=[campaign.pk, row.system.index])
            yield Need(
                f"Upload the responses of {row.system.label}: {row.missing:,} of {row.total:,} are missing.",
                url,
                "Upload",
            )
        elif row.failed and row.system.stage:
            yield Need(f"Sampling the responses of {row.system.label} failed: {row.system.stage.message}")
    if any("qualify" in sentence for sentence in what_is_missing(campaign)):
        url = reverse("campaign_known", args=[campaign.pk])
        yield Need("Raters must give more right answers than there are qualification tasks.", url, "Add tasks")


def _of_doubts(campaign: Campaign, doubts: Doubts) -> Iterator[Need]:
    url = reverse("campaign_responses", args=[campaign.pk])
    if doubts.named:
        yield Need(
            f"{doubts.named:,} of {doubts.responses:,} responses ({100 * doubts.named_share:.1f}\u00a0%) name{'s' if doubts.named == 1 else ''} "
            f"a system or vendor, which would end the blindness.",
            f"{url}?show=named",
            "Look",
        )
    if doubts.empty:
        yield Need(
            f"{_counted(doubts.empty, 'response is', 'responses are')} empty. Raters see that; leave them out if they are a fault.",
            f"{url}?show=empty",
            "Look",
        )


def _of_access(campaign: Campaign) -> Iterator[Need]:
    if campaign.status != Campaign.Status.OPEN:
        return
    usable = Invitation.objects.filter(campaign=campaign, revoked=None, expires__gt=Now()).exists()
    panel = PanelLink.objects.filter(campaign=campaign, active=True).exists()
    accounts = User.objects.filter(role=Role.RATER, is_active=True).exists()
    if not (usable or panel or accounts):
        yield Need(
            "Nobody can rate yet: invite people, or make a panel link.",
            reverse("campaign_access", args=[campaign.pk]),
            "Let raters in",
        )


def _of_progress(campaign: Campaign, progress: Progress) -> Iterator[Need]:
    if campaign.status != Campaign.Status.CLOSED and progress.wanted and progress.submitted == progress.wanted:
        yield Need("Every task has all its answers. You may close the campaign; that can be undone.")
    elif campaign.status == Campaign.Status.PAUSED:
        yield Need("It is paused: nobody gets work. Open it again when you are ready.")


def _of_flags(campaign: Campaign) -> Iterator[Need]:
    flags = Flag.objects.filter(item__campaign=campaign, settled=None).values("item").annotate(index=F("item__index"))
    count = flags.count()
    if count:
        yield Need(
            f"Raters have flagged {_counted(count, 'task', 'tasks')}.",
            f"{reverse('campaign_items', args=[campaign.pk])}?show=flagged",
            "Look",
        )


def _counted(count: int, one: str, more: str) -> str:
    return f"{count:,} {one if count == 1 else more}"
