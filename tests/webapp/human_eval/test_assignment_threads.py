"""Many raters at once on real PostgreSQL: every slot exactly once, no rater twice, nothing waits in a circle."""

import contextlib
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from uuid import uuid4

import pytest
from django.db import connection
from django.db.models import Count

from rso_core.errors import UserError
from tests.webapp.human_eval.made_campaigns import drawn_verdict, expire, known_item, made_campaign, made_rater, verdict
from webapp.accounts.models import User
from webapp.human_eval import assignment, exclusions
from webapp.human_eval.assignment import Outcome
from webapp.human_eval.invariants import broken_rules
from webapp.human_eval.models import Answer, Campaign, Exclusion, Rater, Slot

pytestmark = pytest.mark.django_db(transaction=True)


def at_once(actions: Iterable[Callable[[], object]]) -> list[object]:
    """Do things at the same moment, each over a connection of its own; return what came of them."""
    actions = list(actions)
    start = threading.Barrier(len(actions))

    def act(action: Callable[[], object]) -> object:
        try:
            start.wait(60)
            return action()
        finally:
            connection.close()

    with ThreadPoolExecutor(len(actions)) as pool:
        return list(pool.map(act, actions))


def work(campaign: Campaign, rater: Rater, seed: int, *, most: int = 10_000) -> None:
    """Rate until nothing is left, as a page does: beat, prefetch, send twice now and then."""
    rng = random.Random(seed)  # noqa: S311
    for _ in range(most):
        if (slot := assignment.claim(campaign, rater)) is None:
            return
        assert slot.token is not None
        if rng.random() < 0.3:
            assignment.claim_ahead(campaign, rater, after=slot)
        if rng.random() < 0.2:
            assignment.heartbeat(slot.token, rater=rater, active_ms=1)
        said, client = drawn_verdict(rng), uuid4()
        for _ in range(1 + (rng.random() < 0.2)):
            assignment.submit(slot.token, said, rater=rater, client_id=client)


def check(campaign: Campaign) -> None:
    assert list(broken_rules(campaign)) == []
    per_item = Answer.objects.filter(campaign=campaign, standing="counted", item__kind="main").values("item")
    counts = per_item.annotate(count=Count("pk"), raters=Count("rater", distinct=True))
    assert all(row["count"] == row["raters"] <= campaign.replicas for row in counts)


def hammer(owner: User, *, raters: int, items: int) -> None:
    campaign = made_campaign(owner, items=items, replicas=3)
    everybody = [made_rater(campaign) for _ in range(raters)]
    tabs = [(rater, tab) for rater in everybody for tab in range(2)]

    def tab(rater: Rater, number: int) -> Callable[[], None]:
        def rate() -> None:
            # The other tab may answer the same task otherwise: then this one changes it, which is no error.
            work(campaign, rater, rater.pk * 2 + number)

        return rate

    at_once(tab(rater, number) for rater, number in tabs)

    assert Answer.objects.filter(standing="counted").count() == items * 3
    assert not Answer.objects.exclude(standing="counted").exists()
    assert Slot.objects.filter(status="submitted").count() == items * 3
    check(campaign)


def test_raters_with_two_tabs_each_fill_every_slot_once(researcher: User) -> None:
    hammer(researcher, raters=12, items=30)


@pytest.mark.slow
def test_forty_raters_with_two_tabs_each_fill_900_slots_once(researcher: User) -> None:
    hammer(researcher, raters=40, items=300)


def test_all_who_want_the_same_task_get_different_slots(researcher: User) -> None:
    campaign = made_campaign(researcher, items=4, replicas=3)
    raters = [made_rater(campaign) for _ in range(20)]

    def ask(rater: Rater) -> Callable[[], object]:
        return lambda: assignment.claim(campaign, rater)

    found = [slot for slot in at_once(ask(rater) for rater in raters) if isinstance(slot, Slot)]

    assert len({slot.pk for slot in found}) == len(found) == 12
    assert set(Counter(slot.item_id for slot in found).values()) == {3}


def test_the_tabs_of_a_rater_get_the_same_task_and_never_more_than_they_may(researcher: User) -> None:
    campaign = made_campaign(researcher, items=8, max_items_per_rater=3)
    rater = made_rater(campaign)
    found = at_once([lambda: assignment.claim(campaign, rater)] * 6)
    assert len({slot.pk for slot in found if isinstance(slot, Slot)}) == 1

    at_once([lambda: work(campaign, rater, 1)] * 4)

    assert Answer.objects.filter(rater=rater).count() == 3
    assert not Slot.objects.filter(status="leased").exists()
    check(campaign)


def test_the_tabs_of_a_rater_get_one_qualification_item_at_a_time(researcher: User) -> None:
    campaign = made_campaign(researcher, items=2, check_share=0.1)
    for kind in ("qualification", "qualification", "check"):
        known_item(campaign, kind)
    rater = made_rater(campaign, qualification="pending")
    found = at_once([lambda: assignment.claim(campaign, rater)] * 6)
    assert len({slot.pk for slot in found if isinstance(slot, Slot)}) == 1

    def tab(seed: int) -> None:
        """Rate on when told that another tab has answered this practice task otherwise."""
        while True:
            try:
                return work(campaign, rater, seed)
            except UserError as told:
                assert "has been marked; what you said first stands" in str(told)  # noqa: PT017

    at_once([partial(tab, seed) for seed in range(4)])
    kinds = Counter(Answer.objects.values_list("item__kind", flat=True))
    assert (kinds["qualification"], kinds["main"]) == (2, 2)
    check(campaign)


def test_a_form_sent_many_times_at_once_is_stored_once(researcher: User) -> None:
    campaign = made_campaign(researcher)
    rater, client = made_rater(campaign), uuid4()
    slot = assignment.claim(campaign, rater)
    assert slot is not None

    def send() -> object:
        return assignment.submit(slot.token, verdict(), rater=rater, client_id=client)[1]  # type: ignore[arg-type]

    outcomes = Counter(at_once([send] * 8))

    assert outcomes == {Outcome.STORED: 1, Outcome.ALREADY: 7}
    assert Answer.objects.count() == 1


def test_of_a_holder_who_comes_late_and_who_takes_the_task_one_counts(researcher: User) -> None:
    for _ in range(8):
        campaign = made_campaign(researcher, items=1, replicas=1)
        first, second = made_rater(campaign), made_rater(campaign)
        slot = assignment.claim(campaign, first)
        assert slot is not None
        expire(slot)

        def submit(slot: Slot = slot, first: Rater = first) -> object:
            return assignment.submit(slot.token, verdict(), rater=first, client_id=uuid4())[1]  # type: ignore[arg-type]

        def take(campaign: Campaign = campaign, second: Rater = second) -> object:
            return assignment.claim(campaign, second)

        outcome, taken = at_once([submit, take])

        assert (outcome == Outcome.STORED) == (taken is None)
        assert Answer.objects.filter(campaign=campaign).count() == 1
        check(campaign)


def exclude_or_lift(campaign: Campaign, rater: Rater, by: User) -> None:
    """Exclude a rater, or lift that they are excluded; somebody else may do so at the same time."""
    try:
        exclusions.exclude(campaign, rater, by=by, reason="too fast")
    except UserError:
        for exclusion in Exclusion.objects.filter(rater=rater, lifted=None):
            with contextlib.suppress(UserError):
                exclusions.lift(exclusion, by=by)


def test_excluding_and_lifting_while_everybody_rates_leaves_nothing_out_of_order(researcher: User) -> None:
    campaign = made_campaign(researcher, items=25, replicas=3)
    raters = [made_rater(campaign) for _ in range(8)]
    done = threading.Event()

    def rate(rater: Rater) -> Callable[[], None]:
        def until_done() -> None:
            while not done.is_set():
                work(campaign, rater, rater.pk, most=3)

        return until_done

    def decide(seed: int) -> Callable[[], None]:
        def exclude_and_lift() -> None:
            rng = random.Random(seed)  # noqa: S311
            try:
                for _ in range(12):
                    exclude_or_lift(campaign, rng.choice(raters), researcher)
            finally:
                done.set()

        return exclude_and_lift

    at_once([*(rate(rater) for rater in raters), decide(1), decide(2)])

    check(campaign)
    for exclusion in Exclusion.objects.filter(lifted=None):
        exclusions.lift(exclusion, by=researcher)
    at_once(lambda rater=rater: work(campaign, rater, 9) for rater in raters)
    check(campaign)
    assert Answer.objects.filter(standing="counted").count() == 75


def test_closing_while_everybody_rates_loses_nothing(researcher: User) -> None:
    campaign = made_campaign(researcher, items=20, replicas=3)
    raters = [made_rater(campaign) for _ in range(6)]
    sent: list[object] = []

    def rate(rater: Rater) -> Callable[[], None]:
        def until_closed() -> None:
            while (slot := assignment.claim(campaign, rater)) is not None:
                stored, _ = assignment.submit(slot.token, verdict(), rater=rater, client_id=uuid4())  # type: ignore[arg-type]
                sent.append(stored.pk)

        return until_closed

    def close() -> None:
        while len(sent) < 10:
            pass
        Campaign.objects.filter(pk=campaign.pk).update(status="closed")

    at_once([*(rate(rater) for rater in raters), close])

    assert set(Answer.objects.values_list("pk", flat=True)) == set(sent)
    assert not Slot.objects.filter(status="leased").exists()
    check(campaign)
