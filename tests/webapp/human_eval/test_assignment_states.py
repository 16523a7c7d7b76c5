"""Every order of claiming, prefetching, beating, submitting, expiring, skipping, excluding, lifting, pausing and closing.

The model is plain Python: who holds each slot, what was answered and whether it counts. It predicts the very slot of
every claim, what becomes of every answer, and which end a rater sees.
"""

from dataclasses import dataclass, field
from uuid import UUID, uuid4

import pytest
from django.db import transaction
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from rso_core.errors import UserError
from tests.webapp.human_eval.made_campaigns import expire, made_campaign, made_rater, verdict
from webapp.accounts.models import Role, User
from webapp.human_eval import assignment, exclusions
from webapp.human_eval.invariants import broken_rules
from webapp.human_eval.models import Answer, AnswerVersion, Campaign, Exclusion, Rater, Skip, Slot

pytestmark = pytest.mark.django_db

ITEMS, REPLICAS, RATERS, MAXIMUM = 4, 2, 3, 3
raters = st.integers(0, RATERS - 1)
positions = st.integers(0, 1000)
choices = st.sampled_from([0, 1, 2, None])


@dataclass
class Place:
    """A slot as the model has it."""

    key: int
    item: int
    rater: int | None = None
    token: UUID | None = None
    answered: bool = False
    expired: bool = False
    ahead: bool = False
    since: int = 0  # order of claims

    @property
    def leased(self) -> bool:
        return self.rater is not None and not self.answered


@dataclass
class Said:
    """An answer as the model has it."""

    place: Place
    standing: str
    choice: int | None
    clients: list[tuple[UUID, int | None]] = field(default_factory=list)


@dataclass
class Lease:
    """A token that was given to a rater once."""

    token: UUID
    rater: int
    place: Place


class Assignment(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.block = transaction.atomic()
        self.block.__enter__()
        self.owner = User.objects.create_user("owner", role=Role.RESEARCHER)
        self.campaign = made_campaign(self.owner, items=ITEMS, replicas=REPLICAS, max_items_per_rater=MAXIMUM)
        self.raters: list[Rater] = [made_rater(self.campaign) for _ in range(RATERS)]
        slots = Slot.objects.filter(campaign=self.campaign).order_by("priority", "pk")
        self.places = [Place(slot.pk, slot.item_id) for slot in slots]
        self.status = "open"
        self.leases: list[Lease] = []
        self.said: dict[tuple[int, int], Said] = {}
        self.skipped: set[tuple[int, int]] = set()
        self.excluded: dict[int, Exclusion] = {}
        self.clock = 0

    # What the model knows

    def held(self, rater: int) -> list[Place]:
        mine = [place for place in self.places if place.leased and place.rater == rater]
        return sorted(mine, key=lambda place: (place.ahead, place.since))

    def taken(self, rater: int) -> int:
        return len(self.held(rater)) + sum(who == rater for _, who in self.said)

    def is_mine(self, place: Place, rater: int) -> bool:
        same_item = [other for other in self.places if other.item == place.item and other.rater == rater]
        return bool(same_item) or (place.item, rater) in self.said or (place.item, rater) in self.skipped

    def next_place(self, rater: int) -> Place | None:
        """Return the slot that a rater without a lease gets."""
        if self.status != "open" or rater in self.excluded or self.taken(rater) >= MAXIMUM:
            return None
        for wanted in (lambda place: place.rater is None, lambda place: place.leased and place.expired):
            for place in self.places:
                if wanted(place) and not self.is_mine(place, rater):
                    return place
        return None

    def expected_end(self, rater: int) -> str:
        if self.status != "open" or rater in self.excluded:
            return "not_open" if self.status != "open" else "excluded"
        if self.held(rater) or self.next_place(rater):
            return ""
        if self.taken(rater) >= MAXIMUM:
            return "maximum"
        waiting = [place for place in self.places if place.leased and not self.is_mine(place, rater)]
        return "others_working" if waiting else "all_done"

    def any_lease(self, position: int) -> Lease | None:
        return self.leases[position % len(self.leases)] if self.leases else None

    def holds(self, lease: Lease) -> bool:
        return lease.place.leased and lease.place.token == lease.token

    def free(self, place: Place) -> None:
        place.rater, place.token, place.answered, place.expired, place.ahead = None, None, False, False, False

    # What raters do

    def check_claim(self, rater: int, slot: Slot | None, expected: Place | None, *, ahead: bool) -> None:
        assert (slot and slot.pk) == (expected and expected.key)
        if slot is None or expected is None:
            return
        if slot.token != expected.token:
            self.clock += 1
            expected.rater, expected.token, expected.since, expected.ahead = rater, slot.token, self.clock, True
            self.leases.append(Lease(slot.token, rater, expected))
        expected.expired, expected.ahead = False, expected.ahead and ahead

    @rule(rater=raters)
    def claim(self, rater: int) -> None:
        allowed = self.status == "open" and rater not in self.excluded
        held = self.held(rater) if allowed else []
        expected = held[0] if held else self.next_place(rater)
        self.check_claim(rater, assignment.claim(self.campaign, self.raters[rater]), expected, ahead=False)

    @rule(rater=raters)
    def claim_ahead(self, rater: int) -> None:
        if not (held := self.held(rater)):
            return
        allowed = self.status == "open" and rater not in self.excluded
        expected = (held[1] if len(held) > 1 else self.next_place(rater)) if allowed else None
        slot = assignment.claim_ahead(self.campaign, self.raters[rater], after=Slot.objects.get(pk=held[0].key))
        self.check_claim(rater, slot, expected, ahead=True)

    @rule(position=positions)
    def beat(self, position: int) -> None:
        if lease := self.any_lease(position):
            beats = assignment.heartbeat(lease.token, rater=self.raters[lease.rater], active_ms=5, draft={"choice": 1})
            assert beats == self.holds(lease)
            if beats:
                lease.place.ahead = False
                for place in self.held(lease.rater):
                    place.expired = False

    @rule(position=positions, choice=choices, again=st.booleans())
    def submit(self, position: int, choice: int | None, again: bool) -> None:  # noqa: FBT001 - drawn
        if not (lease := self.any_lease(position)):
            return
        said = self.said.get((lease.place.item, lease.rater))
        client = said.clients[position % len(said.clients)][0] if said and again else uuid4()
        if said is not None:
            self.submit_again(lease, said, choice, client)
            return
        given, outcome = self.send(lease, choice, client)
        standing = self.standing_of(lease)
        assert given.standing == standing
        assert outcome == ("stored" if standing == "counted" else "surplus")
        self.skipped -= {(lease.place.item, lease.rater)}
        self.said[lease.place.item, lease.rater] = Said(lease.place, standing, choice, [(client, choice)])
        if standing == "counted":
            lease.place.rater, lease.place.answered, lease.place.ahead = lease.rater, True, False
            lease.place.token = Slot.objects.get(pk=lease.place.key).token
        elif self.holds(lease):
            self.free(lease.place)

    def standing_of(self, lease: Lease) -> str:
        if self.status == "closed":
            return "surplus"
        if self.holds(lease):
            return "counted"
        if lease.rater in self.excluded:
            return "excluded"
        free = lease.place.rater is None and self.taken(lease.rater) < MAXIMUM
        return "counted" if free else "surplus"

    def send(self, lease: Lease, choice: int | None, client: UUID) -> tuple[Answer, str]:
        return assignment.submit(
            lease.token, verdict(best=choice), rater=self.raters[lease.rater], client_id=client, active_ms=7
        )

    def submit_again(self, lease: Lease, said: Said, choice: int | None, client: UUID) -> None:
        if choice == said.choice or (client, choice) in said.clients:
            assert self.send(lease, choice, client)[1] == "already"
        elif self.status == "closed" or said.standing == "excluded":
            with pytest.raises(UserError):
                self.send(lease, choice, client)
        else:
            assert self.send(lease, choice, client)[1] == "changed"
            said.choice = choice
            said.clients.append((client, choice))

    @rule(position=positions, choice=choices)
    def change(self, position: int, choice: int | None) -> None:
        if not self.said:
            return
        (item, rater), said = list(self.said.items())[position % len(self.said)]
        answer = Answer.objects.get(item=item, rater=self.raters[rater])
        refused = choice != said.choice and (self.status == "closed" or said.standing == "excluded")
        if refused:
            with pytest.raises(UserError):
                assignment.change(answer, verdict(best=choice))
            return
        assignment.change(answer, verdict(best=choice))
        if choice != said.choice:
            said.choice = choice
            said.clients.append((said.clients[-1][0], choice))

    @rule(position=positions)
    def skip(self, position: int) -> None:
        if not (lease := self.any_lease(position)):
            return
        key = (lease.place.item, lease.rater)
        if key in self.said:
            with pytest.raises(UserError, match="answered this task already"):
                assignment.skip(lease.token, rater=self.raters[lease.rater], reason="unclear")
            return
        assignment.skip(lease.token, rater=self.raters[lease.rater], reason="unclear")
        self.skipped.add(key)
        if self.holds(lease):
            self.free(lease.place)

    @rule(position=positions)
    def expire(self, position: int) -> None:
        if leased := [place for place in self.places if place.leased]:
            place = leased[position % len(leased)]
            place.expired = True
            expire(Slot.objects.get(pk=place.key))

    # What researchers do

    @rule(rater=raters)
    def exclude(self, rater: int) -> None:
        if rater in self.excluded:
            with pytest.raises(UserError, match="already"):
                exclusions.exclude(self.campaign, self.raters[rater], by=self.owner, reason="again")
            return
        self.excluded[rater] = exclusions.exclude(self.campaign, self.raters[rater], by=self.owner, reason="too fast")
        for place in self.places:
            if place.rater == rater:
                self.free(place)
        for (_, who), said in self.said.items():
            if who == rater and said.standing == "counted":
                said.standing = "excluded"

    @rule(rater=raters)
    def lift(self, rater: int) -> None:
        if (exclusion := self.excluded.pop(rater, None)) is None:
            return
        exclusions.lift(exclusion, by=self.owner)
        with pytest.raises(UserError, match="lifted already"):
            exclusions.lift(exclusion, by=self.owner)
        for (_, who), said in self.said.items():
            if who == rater and said.standing == "excluded":
                free = said.place.rater is None
                said.standing = "counted" if free else "surplus"
                if free:
                    said.place.rater, said.place.answered = rater, True
                    said.place.token = Slot.objects.get(pk=said.place.key).token

    @rule(status=st.sampled_from(["open", "open", "open", "paused", "closed"]))
    def move(self, status: str) -> None:
        Campaign.objects.filter(pk=self.campaign.pk).update(status=status)
        self.status = status

    # What always holds

    @invariant()
    def slots_are_as_the_model_has_them(self) -> None:
        found = {slot.pk: slot for slot in Slot.objects.filter(campaign=self.campaign)}
        assert len(found) == ITEMS * REPLICAS
        for place in self.places:
            slot = found[place.key]
            status = "submitted" if place.answered else "leased" if place.leased else "open"
            rater = None if place.rater is None else self.raters[place.rater].pk
            assert (slot.status, slot.rater_id, slot.token) == (status, rater, place.token)
            assert slot.ahead == place.ahead

    @invariant()
    def answers_are_as_the_model_has_them(self) -> None:
        numbers = {rater.pk: number for number, rater in enumerate(self.raters)}
        answers = Answer.objects.filter(campaign=self.campaign)
        found = {(a.item_id, numbers[a.rater_id]): (a.standing, a.choice, a.slot_id) for a in answers}
        expected = {key: (said.standing, said.choice, said.place.key) for key, said in self.said.items()}
        assert found == expected
        assert AnswerVersion.objects.count() == sum(len(said.clients) - 1 for said in self.said.values())
        assert Skip.objects.count() == len(self.skipped)

    @rule(rater=raters)
    def look_at_the_end(self, rater: int) -> None:
        """Raters are told which end it is; now and then somebody looks whether all fits."""
        standing = assignment.standing(self.campaign, self.raters[rater])
        assert standing.end == self.expected_end(rater)
        assert standing.done == sum(who == rater for _, who in self.said)
        assert list(broken_rules(self.campaign)) == []

    def teardown(self) -> None:
        try:
            self.everybody_works_until_the_end()
        finally:
            transaction.set_rollback(True)
            self.block.__exit__(None, None, None)

    def everybody_works_until_the_end(self) -> None:
        """With enough raters and nobody in the way every slot gets exactly one counted answer."""
        self.move("open")
        for rater in list(self.excluded):
            self.lift(rater)
        expire(*Slot.objects.filter(campaign=self.campaign, status="leased"))
        for _ in range(ITEMS):  # enough for every slot, whatever was skipped
            fresh = made_rater(self.campaign)
            while slot := assignment.claim(self.campaign, fresh):
                assignment.submit(slot.token, verdict(), rater=fresh, client_id=uuid4())
        assert Answer.objects.filter(standing="counted").count() == ITEMS * REPLICAS
        assert list(broken_rules(self.campaign)) == []


def run(examples: int, steps: int) -> None:
    limits = hypothesis_settings(max_examples=examples, stateful_step_count=steps, deadline=None, database=None)
    run_state_machine_as_test(Assignment, settings=limits)


def test_every_order_of_actions_ends_as_the_model_says() -> None:
    run(10, 25)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_more_orders_of_actions_end_as_the_model_says() -> None:
    run(300, 60)
