"""Opening a campaign: what it needs, how many slots it makes, and that orders are balanced."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection

from rso_core.errors import UserError
from webapp.accounts.models import AuditEntry, User
from webapp.human_eval import services
from webapp.human_eval.launching import balanced_orders
from webapp.human_eval.models import Campaign, Item, Response, Slot, System

pytestmark = pytest.mark.django_db


def draft(owner: User, *, items: int = 7, way: int = 3, name: str = "Draft", **fields: object) -> Campaign:
    """Return a draft whose responses are all there."""
    values = {"quality_question": "How good?", "choice_question": "Which?", "title": "Rate", "task": "summarization"}
    campaign = Campaign.objects.create(owner=owner, name=name, way=way, **(values | fields))
    systems = [
        System.objects.create(campaign=campaign, index=i, label=f"system {i}", kind=System.Kind.FILE)
        for i in range(way)
    ]
    for index in range(items):
        item = Item.objects.create(campaign=campaign, index=index, prompt=f"post {index}", prompt_id=f"{index:016x}")
        Response.objects.bulk_create(
            Response(item=item, index=system.index, system=system, text=f"{system.label} on {index}")
            for system in systems
        )
    return campaign


@pytest.mark.parametrize(("way", "replicas"), [(3, 3), (3, 1), (2, 2), (2, 5)])
def test_opening_makes_exactly_items_times_replicas_slots(researcher: User, way: int, replicas: int) -> None:
    campaign = draft(researcher, way=way, replicas=replicas)

    assert services.open_campaign(campaign, by=researcher) == 7 * replicas

    assert campaign.status == "open"
    assert campaign.opened is not None
    numbers = Counter(Slot.objects.filter(campaign=campaign, status="open").values_list("item", flat=True))
    assert set(numbers.values()) == {replicas}
    assert len(numbers) == 7


@pytest.mark.parametrize(("way", "count", "kinds"), [(3, 60, 6), (3, 100, 6), (2, 31, 2)])
def test_every_order_begins_equally_many_items(way: int, count: int, kinds: int) -> None:
    found = Counter(balanced_orders(count, way=way, seed=3))

    assert len(found) == kinds
    assert max(found.values()) - min(found.values()) <= 1
    assert all(sorted(order) == list("012"[:way]) for order in found)


def test_orders_and_priorities_follow_from_the_seed(researcher: User) -> None:
    def drawn(name: str, seed: int) -> list[tuple[str, float]]:
        campaign = draft(researcher, name=name, seed=seed, items=20)
        services.open_campaign(campaign, by=researcher)
        return list(campaign.items.values_list("base_order", "priority"))

    assert drawn("one", 5) == drawn("two", 5)
    assert drawn("three", 6) != drawn("four", 7)


def test_the_replicas_of_an_item_share_its_priority_so_that_items_are_finished_one_by_one(researcher: User) -> None:
    campaign = draft(researcher)
    services.open_campaign(campaign, by=researcher)
    by_priority = Slot.objects.filter(campaign=campaign).order_by("priority", "id").values_list("item", flat=True)
    runs = [item for place, item in enumerate(by_priority) if place % 3 == 0]
    assert len(set(runs)) == 7


def test_a_campaign_opens_only_when_every_response_is_there(researcher: User) -> None:
    campaign = draft(researcher)
    Response.objects.filter(item__index__in=[2, 4], system__index=1).delete()

    with pytest.raises(UserError, match="2 of the responses of 'system 1' are not there yet"):
        services.open_campaign(campaign, by=researcher)

    campaign.refresh_from_db()
    assert campaign.status == "draft"
    assert not campaign.slots.exists()


def test_a_campaign_without_prompts_cannot_be_opened(researcher: User) -> None:
    with pytest.raises(UserError, match="it has no prompts"):
        services.open_campaign(draft(researcher, items=0), by=researcher)


def test_opening_needs_as_many_qualification_tasks_as_must_be_answered_rightly(researcher: User) -> None:
    with pytest.raises(UserError, match="there are 0 qualification tasks"):
        services.open_campaign(draft(researcher, qualification_pass=2), by=researcher)


@pytest.mark.parametrize(
    ("path", "refused"),
    [
        (["open", "paused", "open", "closed", "open"], ""),
        (["open", "closed", "paused", "closed"], ""),
        (["paused"], "draft"),
        (["closed"], "draft"),
        (["open", "open"], "open"),
        (["open", "paused", "paused"], "paused"),
        (["open", "draft"], "open"),
    ],
)
def test_a_campaign_goes_only_where_it_may_from_where_it_stands(
    researcher: User, path: list[str], refused: str
) -> None:
    campaign = draft(researcher, items=2)
    for to in path[:-1] if refused else path:
        services.move(campaign, to, by=researcher)
    if refused:
        with pytest.raises(UserError, match=f"is {refused} by now"):
            services.move(campaign, path[-1], by=researcher)
        assert Campaign.objects.get().status == refused
    assert AuditEntry.objects.filter(kind="campaign").count() == len(path) - bool(refused)
    assert Slot.objects.count() == (6 if len(path) > 1 or not refused else 0)


def test_closing_is_undone_without_a_trace_on_the_slots(researcher: User) -> None:
    campaign = draft(researcher, items=2)
    for to in ("open", "closed"):
        services.move(campaign, to, by=researcher)
    assert campaign.closed is not None
    services.move(campaign, "open", by=researcher)
    assert campaign.closed is None
    assert campaign.slots.filter(status="open").count() == 6


def together(*actions: Callable[[], object]) -> list[str]:
    """Do things at once, each over its own connection; return what went wrong."""

    def attempt(action: Callable[[], object]) -> str:
        try:
            action()
        except UserError as error:
            return str(error)
        finally:
            connection.close()
        return ""

    with ThreadPoolExecutor(len(actions)) as pool:
        return [error for error in pool.map(attempt, actions) if error]


@pytest.mark.django_db(transaction=True)
def test_of_several_who_open_a_draft_at_once_one_does(researcher: User) -> None:
    campaign = draft(researcher, items=5)

    def open_it() -> None:
        services.open_campaign(Campaign.objects.get(pk=campaign.pk), by=researcher)

    errors = together(*[open_it] * 4)

    assert len(errors) == 3
    assert Slot.objects.count() == 15
    assert AuditEntry.objects.filter(action="opened").count() == 1


@pytest.mark.django_db(transaction=True)
def test_pausing_and_closing_at_once_leave_one_of_both(researcher: User) -> None:
    campaign = draft(researcher, items=2)
    services.open_campaign(campaign, by=researcher)

    def go(to: str) -> Callable[[], None]:
        return lambda: services.move(Campaign.objects.get(pk=campaign.pk), to, by=researcher)

    together(go("paused"), go("closed"), go("paused"), go("closed"))

    campaign.refresh_from_db()
    assert campaign.status in {"paused", "closed"}
    assert (campaign.closed is None) == (campaign.status == "paused")
