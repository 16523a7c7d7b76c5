"""Statements that are written out give and store what Django's own would."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from django.db.models import Model

from tests.webapp.human_eval.made_campaigns import answer, claimed, made_campaign, made_rater
from webapp.accounts.models import User
from webapp.human_eval import rows
from webapp.human_eval.models import Answer, Campaign, Item, Participation, Rater, Slot

pytestmark = pytest.mark.django_db
MODELS = (Campaign, Item, Slot, Rater, Participation, Answer)


def values_of(found: Model) -> dict[str, Any]:
    return {field.attname: getattr(found, field.attname) for field in found._meta.concrete_fields}


@pytest.mark.parametrize("model", MODELS)
def test_a_row_becomes_the_object_that_django_makes_of_it(model: type[Model], researcher: User) -> None:
    campaign = made_campaign(researcher, check_share=0.1, consent="Do you agree?")
    answer(campaign, made_rater(campaign), active_ms=7)
    slot, _ = claimed(campaign, made_rater(campaign))
    Slot.objects.filter(pk=slot.pk).update(draft={"q1": "3", "reason": "ü 'quoted' %s"})
    Item.objects.update(messages=[{"role": "user", "content": "Why?"}])
    statement = f"SELECT {rows.columns(model, 'x')} FROM {model._meta.db_table} AS x WHERE id = %(pk)s"  # noqa: S608
    for expected in model._default_manager.all():
        row = rows.first_row(statement, {"pk": expected.pk})
        assert row is not None
        assert len(row) == rows.width(model)
        found = rows.made(model, row)
        assert found is not None
        assert values_of(found) == values_of(expected)
        assert [type(value) for value in values_of(found).values()] == [
            type(value) for value in values_of(expected).values()
        ]
        assert not found._state.adding


def test_the_empty_side_of_an_outer_join_is_nothing() -> None:
    assert rows.made(Rater, [None] * rows.width(Rater)) is None
    assert rows.first_row("SELECT 1 WHERE false", {}) is None


@pytest.mark.parametrize("write", [rows.insert, lambda row: row.save(force_insert=True)])
def test_an_inserted_row_is_the_one_that_django_would_store(write: Callable[[Model], None], researcher: User) -> None:
    campaign = made_campaign(researcher)
    given = answer(campaign, made_rater(campaign), active_ms=7)
    stored = Answer.objects.get(pk=given.pk)
    copy = values_of(stored) | {
        "id": None,
        "client_id": uuid4(),
        "slot_id": None,
        "standing": "surplus",
        "surplus_reason": "it's late, 100 %s",
        "rater_id": made_rater(campaign).pk,
    }
    row = Answer(**copy)
    write(row)
    found = values_of(Answer.objects.get(pk=row.pk))
    assert found.pop("changed") == row.changed != stored.changed
    assert found == {name: value for name, value in copy.items() if name != "changed"} | {"id": row.pk}
    assert not row._state.adding


def test_an_update_writes_the_named_columns_and_no_other(researcher: User) -> None:
    campaign = made_campaign(researcher)
    slot, _ = claimed(campaign, made_rater(campaign))
    before = values_of(Slot.objects.get(pk=slot.pk))
    slot.draft, slot.active_ms, slot.ahead = {"q1": "3"}, 12, True
    rows.update(slot, ("draft", "active_ms"))
    assert values_of(Slot.objects.get(pk=slot.pk)) == before | {"draft": {"q1": "3"}, "active_ms": 12}
    slot.draft = None
    rows.update(slot, ("draft",))
    assert Slot.objects.filter(pk=slot.pk, draft__isnull=True).exists()  # no JSON null
