"""The page that lets raters in: invitations and the link of a panel."""

import re
from typing import Any

import pytest
from django.test import Client

from tests.webapp.human_eval.made_campaigns import made_campaign
from tests.webapp.human_eval.rating import body
from tests.webapp.human_eval.typed import PROLIFIC
from tests.webapp.made_runs import imported, signed_in
from webapp.accounts.models import AuditEntry, User
from webapp.human_eval.models import Invitation, PanelLink
from webapp.human_eval.rater_access import token_hash, usable_invitation, usable_panel_link

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("made_store")]


@pytest.fixture
def page(researcher: User) -> Client:
    imported(researcher)
    return signed_in(researcher)


def test_invitations_are_shown_once_and_kept_as_fingerprints(page: Client, researcher: User) -> None:
    campaign = made_campaign(researcher, items=2)
    shown = page.post(f"/campaigns/{campaign.pk}/access/invite/", {"count": 1, "notes": "Ada\nBo\n", "days": 3})
    assert "no-store" in shown["Cache-Control"]
    tokens = re.findall(r"<code>http://testserver/rate/invitation/([\w-]+)/</code>", body(shown))
    assert len(set(tokens)) == 2
    assert {item.token_hash for item in Invitation.objects.all()} == {token_hash(token) for token in tokens}
    assert set(Invitation.objects.values_list("note", flat=True)) == {"Ada", "Bo"}
    again = body(page.get(f"/campaigns/{campaign.pk}/access/"))
    assert "Ada" in again
    assert not any(token in again for token in tokens)
    assert not AuditEntry.objects.filter(details__icontains=tokens[0]).exists()

    bo = Invitation.objects.get(note="Bo")
    page.post(f"/campaigns/{campaign.pk}/access/{bo.pk}/revoke/")

    usable = [token for token in tokens if usable_invitation(token)]
    assert len(usable) == 1
    assert "revoked" in body(page.get(f"/campaigns/{campaign.pk}/access/"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0, "days": 14}, "greater than or equal to 1"),
        ({"count": 201, "days": 14}, "less than or equal to 200"),
        ({"count": 1, "days": 400}, "less than or equal to 365"),
        ({"count": 1, "days": 14, "notes": "x" * 121}, "is longer than 120 characters"),
        ({"count": 1, "days": 14, "notes": "a\n" * 201}, "At most 200 at once"),
    ],
)
def test_odd_invitations_are_refused(page: Client, researcher: User, values: dict[str, Any], message: str) -> None:
    campaign = made_campaign(researcher, items=2)
    assert message in body(page.post(f"/campaigns/{campaign.pk}/access/invite/", values))
    assert not Invitation.objects.exists()


def test_the_panel_link_is_shown_once_and_can_be_renewed(page: Client, researcher: User) -> None:
    campaign = made_campaign(researcher, items=2)
    address = re.compile(r'<code id="panel-address">http://testserver/rate/panel/([\w-]+)/\?([^<]+)</code>')

    found = address.search(body(page.post(f"/campaigns/{campaign.pk}/access/panel/", PROLIFIC)))

    assert found is not None
    assert found[2] == "PROLIFIC_PID={{%PROLIFIC_PID%}}&amp;SESSION_ID={{%SESSION_ID%}}"
    link = usable_panel_link(found[1])
    assert link is not None
    assert (link.completion_code, link.campaign) == ("C1ABC", campaign)
    again = page.post(f"/campaigns/{campaign.pk}/access/panel/", PROLIFIC | {"completion_code": "NEW"}, follow=True)
    assert address.search(body(again)) is None
    assert PanelLink.objects.get().completion_code == "NEW"
    assert usable_panel_link(found[1]) is not None

    renewed = address.search(body(page.post(f"/campaigns/{campaign.pk}/access/panel/renew/")))

    assert renewed is not None
    assert usable_panel_link(found[1]) is None
    assert usable_panel_link(renewed[1]) is not None
    off = {name: value for name, value in PROLIFIC.items() if name != "active"}
    page.post(f"/campaigns/{campaign.pk}/access/panel/", off)
    assert usable_panel_link(renewed[1]) is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"id_parameter": "a b"}, "A parameter is a name of letters"),
        ({"id_parameter": ""}, "This field is required"),
        ({"return_url": "javascript:alert(1)"}, "Enter a valid URL"),
        ({"return_url": "ftp://example.org/"}, "must begin with https://"),
    ],
)
def test_odd_panel_settings_are_refused(page: Client, researcher: User, changed: dict[str, str], message: str) -> None:
    campaign = made_campaign(researcher, items=2)
    assert message in body(page.post(f"/campaigns/{campaign.pk}/access/panel/", PROLIFIC | changed))
    assert not PanelLink.objects.exists()
