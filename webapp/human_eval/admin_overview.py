"""What the first page of the admin shows: workers, queues, failures, open campaigns, and answers that do not count.

An exclusion, a failed check or a bug that keeps answers out of the results must not go unseen for long, so the share
of answers left out is compared with that of a day ago, campaign by campaign, and a jump is an alarm.
"""

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, Exists, Min, OuterRef, Q, QuerySet
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode

from webapp.human_eval.daily_check import CHECK, Check, last_check
from webapp.human_eval.models import Answer, Campaign, Exclusion, Item, Slot
from webapp.runs.models import LIVE, Shard, Stage, Status, Worker
from webapp.runs.overview import queues_without_worker
from webapp.runs.transitions import WORKER_SEEN_WITHIN

DAY = timedelta(days=1)
JUMP = 0.1  # of all answers, in a day
FEWEST = 10  # answers of which a share says something
_SHOWN = 3  # findings of the daily check


@dataclass(frozen=True)
class Queue:
    """How much work waits on a queue and how much is being done."""

    name: str
    ready: int
    running: int
    oldest: datetime | None


@dataclass(frozen=True)
class Shares:
    """How many answers there are, and how many are left out (excluded or surplus): now, a day ago, and of the new ones."""

    answers: int = 0
    left: int = 0
    answers_before: int = 0
    left_before: int = 0
    answers_today: int = 0
    left_today: int = 0
    raters_today: int = 0

    def __add__(self, other: "Shares") -> "Shares":
        """Return both together. Raters are counted in each campaign they work on."""
        return Shares(**{name: value + getattr(other, name) for name, value in asdict(self).items()})

    @property
    def left_out(self) -> float | None:
        """Return the share that does not count now."""
        return _share(self.left, self.answers)

    @property
    def left_out_before(self) -> float | None:
        """Return the share that did not count a day ago."""
        return _share(self.left_before, self.answers_before)

    @property
    def jumps(self) -> bool:
        """Return whether much more is left out than a day ago, of all answers or of the last day's.

        The second is what shows in a campaign with many answers in which nothing new counts any more.
        """
        before = self.left_out_before or 0.0
        parts = ((self.left, self.answers), (self.left_today, self.answers_today))
        return any(count >= FEWEST and left / count - before >= JUMP for left, count in parts)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


@dataclass(frozen=True)
class OpenCampaign:
    """How far an open campaign is."""

    campaign: Campaign
    slots: int
    done: int
    shares: Shares


@dataclass(frozen=True)
class Alarm:
    """Something an admin should look at now."""

    title: str
    reason: str
    url: str
    action: str


@dataclass(frozen=True)
class AdminOverview:
    """Everything above the list of tables."""

    workers: list[tuple[Worker, bool]]  # and whether it has been seen lately
    queues: list[Queue]
    failed: list[Stage]
    campaigns: list[OpenCampaign]
    raters: int  # that answered in the last day
    alarms: list[Alarm]
    check: Check | None  # the last daily one

    @property
    def workers_living(self) -> int:
        """Return how many workers have been seen lately."""
        return sum(lives for _, lives in self.workers)

    @property
    def ready(self) -> int:
        """Return how many shards wait for a worker."""
        return sum(queue.ready for queue in self.queues)

    @property
    def running(self) -> int:
        """Return how many shards are being worked on."""
        return sum(queue.running for queue in self.queues)

    @property
    def done(self) -> int:
        """Return how many answers the open campaigns have got."""
        return sum(row.done for row in self.campaigns)

    @property
    def slots(self) -> int:
        """Return how many answers the open campaigns want."""
        return sum(row.slots for row in self.campaigns)

    @property
    def shares(self) -> Shares:
        """Return the answers of all open campaigns."""
        return sum((row.shares for row in self.campaigns), Shares())


def admin_overview() -> AdminOverview:
    """Return what needs attention, in a fixed number of queries."""
    since = timezone.now() - DAY
    campaigns = _open_campaigns(since)
    lately = Answer.objects.filter(campaign__in=[row.campaign for row in campaigns], submitted__gte=since)
    check = last_check()
    return AdminOverview(
        workers=_workers(since),
        queues=_queues(),
        failed=_failed(since),
        campaigns=campaigns,
        raters=lately.order_by().values("rater").distinct().count(),
        alarms=[*_misfits(check), *_idle_queues(), *(_jump(row) for row in campaigns if row.shares.jumps)],
        check=check,
    )


def _workers(since: datetime) -> list[tuple[Worker, bool]]:
    lately = timezone.now() - WORKER_SEEN_WITHIN
    return [(worker, worker.seen >= lately) for worker in Worker.objects.filter(seen__gte=since).order_by("name")]


def _queues() -> list[Queue]:
    busy = Shard.objects.filter(status__in=[Status.READY, Status.RUNNING], stage__status__in=LIVE)
    counted = busy.values("stage__queue").annotate(
        ready=Count("pk", filter=Q(status=Status.READY)),
        running=Count("pk", filter=Q(status=Status.RUNNING)),
        oldest=Min("stage__created", filter=Q(status=Status.READY)),
    )
    rows = counted.order_by("stage__queue")
    return [Queue(row["stage__queue"], row["ready"], row["running"], row["oldest"]) for row in rows]


def _failed(since: datetime) -> list[Stage]:
    ended = Stage.objects.filter(status__in=[Status.FAILED, Status.OUT_OF_MEMORY], finished__gte=since)
    return list(ended.order_by("-finished"))


def _open_campaigns(since: datetime) -> list[OpenCampaign]:
    found = list(Campaign.objects.filter(status=Campaign.Status.OPEN).select_related("owner").order_by("-opened"))
    slots = _slots(found)
    shares = _shares(found, since)
    return [OpenCampaign(row, *slots.get(row.pk, (0, 0)), shares.get(row.pk, Shares())) for row in found]


def _slots(campaigns: list[Campaign]) -> dict[int, tuple[int, int]]:
    """Return for each campaign how many answers are wanted and how many there are."""
    rows = (
        Slot.objects.filter(campaign__in=campaigns).exclude(status=Slot.Status.VOID).exclude(item__in=_known(campaigns))
    )
    done = Count("pk", filter=Q(status=Slot.Status.SUBMITTED))
    counted = rows.order_by().values_list("campaign").annotate(wanted=Count("pk"), done=done)
    return {campaign: (wanted, there) for campaign, wanted, there in counted}


def _known(campaigns: list[Campaign]) -> QuerySet[Item]:
    """Return the qualification and check items: the few to leave out, where a join would look at every item."""
    return Item.objects.filter(campaign__in=campaigns, kind__in=set(Item.Kind) - {Item.Kind.MAIN})


def _shares(campaigns: list[Campaign], since: datetime) -> dict[int, Shares]:
    """Return the answers of each campaign. Who was excluded within the day was not left out before it."""
    excluded = Exclusion.objects.filter(
        campaign=OuterRef("campaign"), rater=OuterRef("rater"), at__gte=since, lifted=None
    )
    before, left = Q(submitted__lt=since), ~Q(standing=Answer.Standing.COUNTED)
    main = Answer.objects.filter(campaign__in=campaigns).exclude(item__in=_known(campaigns))
    counted = (
        main.order_by()
        .values("campaign")
        .annotate(
            answers=Count("pk"),
            left=Count("pk", filter=left),
            answers_before=Count("pk", filter=before),
            left_before=Count("pk", filter=before & left & Q(~Exists(excluded))),
            answers_today=Count("pk", filter=~before),
            left_today=Count("pk", filter=~before & left),
            raters_today=Count("rater", distinct=True, filter=~before),
        )
    )
    return {row.pop("campaign"): Shares(**row) for row in map(dict[str, Any], counted)}


def _idle_queues() -> list[Alarm]:
    title, action = "Work waits on the queue {} and no worker takes it", "See the workers"
    reason = "Start a worker of this queue, or look at why it is not heard of."
    url = reverse("admin:runs_worker_changelist")
    return [Alarm(title.format(name), reason, url, action) for name in queues_without_worker()]


def _misfits(check: Check | None) -> list[Alarm]:
    if check is None or not check.count:
        return []
    shown = "; ".join(check.findings[:_SHOWN])
    more = f"; and {check.count - _SHOWN:,} more" if check.count > _SHOWN else ""
    reason = (
        f"The daily check found in {check.campaigns:,} campaigns: {shown}{more}. Results of these campaigns may be wrong. Run "
        f"“manage.py check_campaigns” to see whether it is so still."
    )
    url = f"{reverse('audit_log')}?{urlencode({'kind': CHECK})}"
    return [Alarm("Slots and answers of a campaign do not fit", reason, url, "See the checks")]


def _jump(row: OpenCampaign) -> Alarm:
    shares = row.shares
    reason = (
        f"{shares.left:,} of {shares.answers:,} answers do not count, {shares.left_today:,} of the {shares.answers_today:,} "
        f"of the last day; a day ago it was {shares.left_before:,} of {shares.answers_before:,}. Look at who was excluded and why."
    )
    url = f"{reverse('admin:human_eval_answer_changelist')}?campaign__id__exact={row.campaign.pk}"
    return Alarm(f"Many answers of {row.campaign.name} have been left out", reason, url, "See its answers")
