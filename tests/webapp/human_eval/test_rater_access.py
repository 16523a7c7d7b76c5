"""Who may rate without an account: invitations for one person, and the link of a panel."""

from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from tests.webapp.human_eval.made_campaigns import answer, made_campaign, made_rater
from webapp.accounts.models import User
from webapp.human_eval.models import Campaign, Invitation, PanelLink, Participation, Rater
from webapp.human_eval.rater_access import token_hash

pytestmark = pytest.mark.django_db
LINK = "/rate/invitation/secret-token/"
PANEL = "/rate/panel/panel-token/"
PARTICIPANT = {"PROLIFIC_PID": "5f3c1a", "SESSION_ID": "s-1"}


@pytest.fixture
def campaign(researcher: User) -> Campaign:
    return made_campaign(researcher)


@pytest.fixture
def invitation(campaign: Campaign) -> Invitation:
    return Invitation.objects.create(
        campaign=campaign, token_hash=token_hash("secret-token"), expires=timezone.now() + timedelta(days=1)
    )


@pytest.fixture
def panel(campaign: Campaign) -> PanelLink:
    return PanelLink.objects.create(
        campaign=campaign,
        token_hash=token_hash("panel-token"),
        completion_code="C0DE-77",
        return_url="https://panel.example/done?cc=C0DE-77",
    )


def test_opening_an_invitation_shows_what_it_is_and_changes_nothing(client: Client, invitation: Invitation) -> None:
    response = client.get(LINK)
    assert "You are invited to rate" in response.content.decode()
    assert response["Referrer-Policy"] == "no-referrer"
    assert response["Cache-Control"] == "no-store"
    assert not Rater.objects.exists()
    assert "sessionid" not in client.cookies
    invitation.refresh_from_db()
    assert invitation.accepted is None


def test_accepting_an_invitation_makes_one_rater_in_a_session_with_a_new_key(
    client: Client, invitation: Invitation, campaign: Campaign
) -> None:
    session = client.session
    session["planted"] = True
    session.save()
    planted = client.cookies["sessionid"].value
    assert client.post(LINK)["Location"] == f"/rate/{campaign.pk}/"
    assert client.cookies["sessionid"].value != planted
    rater = Rater.objects.get()
    assert (rater.origin, rater.user) == ("invitation", None)
    invitation.refresh_from_db()
    assert invitation.rater == rater
    assert "Task 1" in client.get(f"/rate/{campaign.pk}/").content.decode()


def test_an_accepted_invitation_brings_the_same_person_back_on_another_device(
    client: Client, invitation: Invitation, campaign: Campaign
) -> None:
    client.post(LINK)
    other = Client()
    assert "Continue" in other.get(LINK).content.decode()
    other.post(LINK)
    assert Rater.objects.count() == Participation.objects.count() == 1
    assert other.session["rater"] == client.session["rater"]


@pytest.mark.parametrize(
    "change", [{"expires": timezone.now() - timedelta(days=1)}, {"revoked": timezone.now()}, {"token_hash": "0" * 64}]
)
def test_a_link_that_is_over_lets_nobody_in(client: Client, invitation: Invitation, change: dict[str, object]) -> None:
    Invitation.objects.update(**change)
    for response in (client.get(LINK), client.post(LINK)):
        assert response.status_code == 410
        assert "does not work" in response.content.decode()
    assert not Rater.objects.exists()


def test_revoking_an_invitation_ends_the_visit_and_keeps_the_answers(
    client: Client, invitation: Invitation, campaign: Campaign
) -> None:
    client.post(LINK)
    answer(campaign, Rater.objects.get())
    Invitation.objects.update(revoked=timezone.now())
    assert client.get(f"/rate/{campaign.pk}/").status_code == 302
    assert campaign.answers.count() == 1


def test_a_link_rater_sees_their_campaign_and_no_other(
    client: Client, invitation: Invitation, campaign: Campaign, researcher: User
) -> None:
    other = made_campaign(researcher, title="Another one")
    client.post(LINK)
    assert "Another one" not in client.get("/rate/").content.decode()
    assert client.get(f"/rate/{other.pk}/").status_code == 404
    assert client.post(f"/rate/{other.pk}/join/").status_code == 404
    for path in ("/", "/runs/", "/datasets/", "/account/"):
        assert client.get(path)["Location"].startswith("/sign-in/"), path


def test_links_for_people_without_account_do_not_go_with_an_account(
    client: Client, invitation: Invitation, panel: PanelLink, researcher: User, rater: User
) -> None:
    for user, words in ((researcher, "so it cannot rate"), (rater, "You have an account")):
        client.force_login(user)
        for url in (LINK, PANEL):
            assert words in client.post(url, PARTICIPANT).content.decode()
    assert not Rater.objects.exists()


def test_an_account_that_signs_in_after_a_link_rates_as_itself(
    client: Client, invitation: Invitation, campaign: Campaign, rater: User
) -> None:
    client.post(LINK)
    client.force_login(rater)
    client.post(f"/rate/{campaign.pk}/join/")
    assert set(Rater.objects.values_list("origin", flat=True)) == {"invitation", "account"}


def test_a_panel_link_takes_the_participant_from_the_address(
    client: Client, panel: PanelLink, campaign: Campaign
) -> None:
    response = client.get(PANEL, PARTICIPANT)
    assert "You come as participant <code>5f3c1a</code>" in response.content.decode()
    assert response["Referrer-Policy"] == "no-referrer"
    assert not Rater.objects.exists()
    assert client.post(PANEL, PARTICIPANT)["Location"] == f"/rate/{campaign.pk}/"
    rater = Rater.objects.get()
    assert (rater.origin, rater.panel_id) == ("panel", "5f3c1a")
    assert Participation.objects.get().panel_session == "s-1"


def test_the_same_participant_is_the_same_rater_and_another_is_not(client: Client, panel: PanelLink) -> None:
    client.post(PANEL, PARTICIPANT)
    first = client.session["rater"]
    Client().post(PANEL, PARTICIPANT | {"SESSION_ID": "s-2"})
    assert Rater.objects.count() == 1
    assert Participation.objects.get().panel_session == "s-2"
    client.post(PANEL, PARTICIPANT | {"PROLIFIC_PID": "other"})  # somebody else at the same device
    assert Rater.objects.count() == 2
    assert client.session["rater"] != first


@pytest.mark.parametrize("value", ["", "   ", "{{%PROLIFIC_PID%}}", "x" * 201, "a\x00b", "a\nb"])
def test_an_address_without_a_participant_asks_for_the_id(client: Client, panel: PanelLink, value: str) -> None:
    shown = client.get(PANEL, {"PROLIFIC_PID": value}).content.decode()
    assert "Your participant id" in shown
    response = client.post(PANEL, {"PROLIFIC_PID": value})
    assert "A participant id of 1 to 200 printable characters is needed" in response.content.decode()
    assert not Rater.objects.exists()


@pytest.mark.parametrize("change", [{"active": False}, {"expires": timezone.now() - timedelta(days=1)}])
def test_a_panel_link_that_is_switched_off_or_over_lets_nobody_in(
    client: Client, panel: PanelLink, change: dict[str, object]
) -> None:
    PanelLink.objects.update(**change)
    assert client.get(PANEL, PARTICIPANT).status_code == client.post(PANEL, PARTICIPANT).status_code == 410


def test_parameters_of_another_panel_are_read_by_their_names(client: Client, panel: PanelLink) -> None:
    PanelLink.objects.update(id_parameter="workerId", session_parameter="")
    client.post(PANEL, {"workerId": "W1", "PROLIFIC_PID": "not this"})
    assert Rater.objects.get().panel_id == "W1"


def test_whoever_is_through_gets_the_code_and_the_way_back(
    client: Client, panel: PanelLink, campaign: Campaign
) -> None:
    Campaign.objects.update(max_items_per_rater=1)
    client.post(PANEL, PARTICIPANT)
    assert "C0DE-77" not in client.get(f"/rate/{campaign.pk}/").content.decode()
    answer(Campaign.objects.get(), Rater.objects.get())
    shown = client.get(f"/rate/{campaign.pk}/").content.decode()
    assert '<code id="completion-code">C0DE-77</code>' in shown
    assert 'href="https://panel.example/done?cc=C0DE-77" rel="noreferrer"' in shown
    assert Participation.objects.get().finished is not None


@pytest.mark.parametrize(("status", "rated", "paid"), [("paused", 1, False), ("closed", 1, True), ("closed", 0, False)])
def test_when_it_ends_early_the_code_goes_to_whoever_has_rated(
    client: Client, panel: PanelLink, campaign: Campaign, status: str, rated: int, *, paid: bool
) -> None:
    client.post(PANEL, PARTICIPANT)
    for _ in range(rated):
        answer(campaign, Rater.objects.get())
    Campaign.objects.update(status=status)
    assert ("C0DE-77" in client.get(f"/rate/{campaign.pk}/").content.decode()) is paid


def test_a_code_is_for_the_panel_only(client: Client, panel: PanelLink, campaign: Campaign, rater: User) -> None:
    me = made_rater(campaign, user=rater)
    client.force_login(rater)
    for _ in range(6):
        answer(campaign, me)
    shown = client.get(f"/rate/{campaign.pk}/").content.decode()
    assert "All done" in shown
    assert "C0DE-77" not in shown


def test_accepting_needs_the_forms_token(invitation: Invitation) -> None:
    strict = Client(enforce_csrf_checks=True)
    assert strict.post(LINK).status_code == 403
    page = strict.get(LINK).content.decode()
    token = page.partition('name="csrfmiddlewaretoken" value="')[2].partition('"')[0]
    # The page's own policy lets the browser say where the form comes from; without, this would be refused.
    assert '<meta name="referrer" content="strict-origin">' in page
    accepted = strict.post(LINK, {"csrfmiddlewaretoken": token}, headers={"Origin": "http://testserver"})
    assert accepted.status_code == 302
