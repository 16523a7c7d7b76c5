"""Django's admin in the product's frame: every table is shown in a fixed number of queries, and little can be changed."""

import re
from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from rso_core.errors import UserError
from tests.webapp.graphs import DIAMOND, run_of
from tests.webapp.human_eval.made_campaigns import answer, made_campaign, made_rater
from webapp.accounts.admin_site import site
from webapp.accounts.audit import record
from webapp.accounts.models import AuditEntry, Role, User
from webapp.human_eval import exclusions
from webapp.human_eval.admin_overview import FEWEST, admin_overview
from webapp.human_eval.models import Answer, Campaign, Exclusion, Flag, Invitation, Item, Participation, Rater, Skip
from webapp.runs.models import Dataset, RegisteredModel, Run, Shard, Stage, Status, Worker

pytestmark = pytest.mark.django_db

TABLES = sorted(f"{model._meta.app_label}/{model._meta.model_name}" for model in site._registry)


@pytest.fixture
def signed_in(client: Client, admin: User) -> Client:
    client.force_login(admin)
    return client


def fill(owner: User, number: int) -> None:
    """Make `number` more rows of every table, each belonging to something else."""
    for index in range(number):
        name = f"{number}-{index}"
        run = run_of(DIAMOND, owner)
        Dataset.objects.create(owner=owner, name=f"data {name}", kind="sft", task="dialogue", stage=run.stages.first())
        RegisteredModel.objects.create(owner=owner, name=f"model {name}", stage=run.stages.first())
        Worker.objects.create(name=f"worker {name}", queue="cpu", seen=timezone.now())
        campaign = made_campaign(owner, items=2)
        rater = made_rater(campaign)
        answer(campaign, rater)
        exclusions.exclude(campaign, rater, by=owner, reason="far too fast")
        item = Item.objects.filter(campaign=campaign).first()
        assert item is not None
        Skip.objects.create(item=item, rater=rater, reason="other")
        Flag.objects.create(item=item, rater=rater, reason="other")
        now = timezone.now()
        invited = Rater.objects.create(origin="invitation")
        Invitation.objects.create(
            campaign=campaign, token_hash=name, created_by=owner, expires=now, accepted=now, rater=invited
        )


def queries(client: Client, url: str) -> int:
    with CaptureQueriesContext(connection) as caught:
        assert client.get(url).status_code == 200, url
    return len(caught)


def test_no_list_asks_the_database_more_often_when_it_has_more_rows(signed_in: Client, researcher: User) -> None:
    fill(researcher, 2)
    urls = ["/admin/", "/audit/", *(f"/admin/{table}/" for table in TABLES)]
    before = {url: queries(signed_in, url) for url in urls}
    fill(researcher, 5)
    grown = {url: (count, after) for url, count in before.items() if (after := queries(signed_in, url)) > count}
    assert grown == {}
    assert max(before.values()) < 25


@pytest.mark.parametrize("table", TABLES)
def test_every_table_can_be_searched_sorted_and_opened(signed_in: Client, researcher: User, table: str) -> None:
    fill(researcher, 1)
    model_admin = next(
        item for model, item in site._registry.items() if item.opts.label_lower == table.replace("/", ".")
    )
    listed = signed_in.get(f"/admin/{table}/?o=-1").content.decode()
    assert "RSO Studio" in listed
    for row in model_admin.model._default_manager.all()[:1]:
        for page in (f"/admin/{table}/{row.pk}/change/", f"/admin/{table}/{row.pk}/history/"):
            assert signed_in.get(page, follow=True).status_code == 200, page
    if model_admin.search_fields:
        assert "Nothing matches" in signed_in.get(f"/admin/{table}/?q=nowhere-to-be-found").content.decode()
    for address in ("add/", "1/delete/"):
        assert signed_in.post(f"/admin/{table}/{address}", {"post": "yes"}).status_code in {403, 404}, address


def test_no_page_of_the_admin_needs_more_than_the_policy_of_all_pages(signed_in: Client, researcher: User) -> None:
    fill(researcher, 1)
    campaign = Campaign.objects.get()
    for url in (
        "/admin/",
        "/admin/human_eval/campaign/",
        f"/admin/human_eval/campaign/{campaign.pk}/change/",
        "/audit/",
    ):
        response = signed_in.get(url)
        policy, body = response["Content-Security-Policy"], response.content.decode()
        assert "unsafe-eval" not in policy
        assert re.search(r"script-src[^;]*unsafe", policy) is None
        assert re.findall(r"<script(?![^>]*\bsrc=)[^>]*>", body) == []
        assert re.findall(r"""\s(?:on\w+|x-\w+|@click)=["']""", body) == []
        assert re.findall(r"""(?:src|href)=["']https?:""", body) == []


def test_nobody_but_admins_sees_any_of_it(client: Client, researcher: User, rater: User) -> None:
    fill(researcher, 1)
    exclusion, participation = Exclusion.objects.get(), Participation.objects.get()
    posted = [
        f"/admin/human_eval/exclusion/{exclusion.pk}/lift/",
        f"/admin/human_eval/participation/{participation.pk}/exclude/",
    ]
    for person in (researcher, rater):
        client.force_login(person)
        for url in ["/admin/", "/audit/", "/audit/audit.csv", *(f"/admin/{table}/" for table in TABLES)]:
            assert client.get(url, follow=True).status_code == 403, url
        assert [client.post(url, {"reason": "x"}, follow=True).status_code for url in posted] == [403, 403]
    assert Exclusion.objects.get().lifted is None


def test_a_rater_is_excluded_and_taken_back_as_on_the_results_page(signed_in: Client, researcher: User) -> None:
    campaign = made_campaign(researcher, items=2)
    rater = made_rater(campaign)
    given = answer(campaign, rater)
    part = Participation.objects.get(campaign=campaign, rater=rater)
    page = f"/admin/human_eval/participation/{part.pk}/"
    assert "needs a reason" in signed_in.post(f"{page}exclude/", {"reason": " "}, follow=True).content.decode()
    shown = signed_in.post(f"{page}exclude/", {"reason": "clicks without reading"}, follow=True).content.decode()
    assert "This rater is excluded" in shown
    given.refresh_from_db()
    assert given.standing == Answer.Standing.EXCLUDED
    exclusion = Exclusion.objects.get()
    assert exclusion.by is not None
    assert exclusion.by.username == "admin"
    assert signed_in.get(f"/admin/human_eval/exclusion/{exclusion.pk}/lift/").status_code == 404
    signed_in.post(f"/admin/human_eval/exclusion/{exclusion.pk}/lift/")
    given.refresh_from_db()
    assert given.standing == Answer.Standing.COUNTED
    assert set(AuditEntry.objects.filter(kind="rater").values_list("action", flat=True)) >= {"excluded", "lifted"}


def test_roles_are_changed_by_the_rules_of_the_people_page(signed_in: Client, admin: User, rater: User) -> None:
    page = f"/admin/accounts/user/{rater.pk}/change/"
    assert rater.password not in signed_in.get(page).content.decode()
    signed_in.post(page, {"role": "researcher", "is_active": "on", "username": "eve", "is_superuser": "on"})
    rater.refresh_from_db()
    assert (rater.role, rater.username, rater.is_superuser) == (Role.RESEARCHER, "rater", False)
    assert AuditEntry.objects.get(kind="user").details == {"role": {"from": "rater", "to": "researcher"}}
    refused = signed_in.post(f"/admin/accounts/user/{admin.pk}/change/", {"role": "rater"}, follow=True)
    assert "the last active admin" in refused.content.decode()
    admin.refresh_from_db()
    assert (admin.is_admin, admin.is_active) == (True, True)
    assert not LogEntry.objects.exists()  # the audit log is the only one


def test_the_admins_own_ways_to_sign_out_or_change_a_password_lead_to_the_products(signed_in: Client) -> None:
    assert signed_in.get("/admin/password_change/")["Location"] == "/account/"
    assert signed_in.post("/admin/logout/")["Location"] == "/account/"


def test_no_secret_of_a_link_is_shown(signed_in: Client, researcher: User) -> None:
    fill(researcher, 1)
    Invitation.objects.update(token_hash="5ec2e7" * 8)
    pages = ["/admin/human_eval/invitation/", f"/admin/human_eval/invitation/{Invitation.objects.get().pk}/change/"]
    assert ["5ec2e7" in signed_in.get(url).content.decode() for url in pages] == [False, False]


def test_the_first_page_shows_workers_queues_and_what_failed(signed_in: Client, researcher: User) -> None:
    run = run_of(DIAMOND, researcher)
    now = timezone.now()
    Worker.objects.create(name="cpu@here", queue="cpu", seen=now)
    Worker.objects.create(name="gpu@there", queue="gpu", seen=now - timedelta(hours=2))
    failed = run.stages.order_by("pk").last()
    assert failed is not None
    Stage.objects.filter(pk=failed.pk).update(status=Status.FAILED, finished=now, message="the disk is full")
    overview = admin_overview()
    assert [(worker.name, lives) for worker, lives in overview.workers] == [("cpu@here", True), ("gpu@there", False)]
    assert overview.workers_living == 1
    assert overview.ready == Shard.objects.filter(status=Status.READY).count() > 0
    assert [stage.pk for stage in overview.failed] == [failed.pk]
    body = signed_in.get("/admin/").content.decode()
    assert "the disk is full" in body
    assert "gpu@there" in body
    Stage.objects.filter(pk=failed.pk).update(finished=now - timedelta(days=2))
    assert admin_overview().failed == []


def test_open_campaigns_are_shown_with_their_progress(researcher: User) -> None:
    campaign = made_campaign(researcher, items=2, replicas=2)
    made_campaign(researcher, status="paused")
    answer(campaign, made_rater(campaign))
    row = admin_overview().campaigns
    assert [(item.campaign, item.done, item.slots) for item in row] == [(campaign, 1, 4)]
    assert (admin_overview().raters, row[0].shares.answers_today, row[0].shares.left_out) == (1, 1, 0.0)


def rated(campaign: Campaign, raters: int, *, hours_ago: float) -> list[Rater]:
    """Let new raters answer everything, some time ago."""
    came = [made_rater(campaign) for _ in range(raters)]
    known = set(Answer.objects.values_list("pk", flat=True))
    for person in came:
        for _ in range(campaign.num_items):
            answer(campaign, person)
    moment = timezone.now() - timedelta(hours=hours_ago)
    Answer.objects.exclude(pk__in=known).update(submitted=moment)
    return came


def test_a_jump_of_the_answers_left_out_is_an_alarm(signed_in: Client, researcher: User) -> None:
    campaign = made_campaign(researcher, items=5, replicas=6)
    came = rated(campaign, 4, hours_ago=48)
    assert admin_overview().alarms == []
    exclusions.exclude(campaign, came[0], by=researcher, reason="straight-lining")
    shares = admin_overview().campaigns[0].shares
    assert (shares.answers, shares.left, shares.left_before, shares.left_out) == (20, 5, 0, 0.25)
    assert [alarm.title for alarm in admin_overview().alarms] == [f"Many answers of {campaign.name} have been left out"]
    assert "5 of 20 answers do not count" in signed_in.get("/admin/").content.decode()
    Exclusion.objects.update(at=timezone.now() - timedelta(days=3))
    assert admin_overview().alarms == []  # no news any more


def test_an_alarm_is_given_when_nothing_new_counts_in_a_campaign_with_many_answers(researcher: User) -> None:
    campaign = made_campaign(researcher, items=5, replicas=30 - 5)
    rated(campaign, 20, hours_ago=48)
    rated(campaign, 2, hours_ago=1)
    assert admin_overview().alarms == []
    late = Answer.objects.filter(submitted__gte=timezone.now() - timedelta(hours=2))
    assert late.count() == FEWEST
    late.update(standing=Answer.Standing.SURPLUS)
    shares = admin_overview().campaigns[0].shares
    assert shares.left / shares.answers < 0.1  # hardly seen in the whole
    assert len(admin_overview().alarms) == 1


def test_only_who_is_excluded_from_this_campaign_since_yesterday_was_not_left_out_before(researcher: User) -> None:
    one, other = (made_campaign(researcher, items=2, replicas=9) for _ in range(2))
    people = {name: rated(one, 1, hours_ago=48)[0] for name in ("long ago", "today", "lifted", "elsewhere", "kept")}
    rated(other, 1, hours_ago=1)
    for name in ("long ago", "today", "lifted"):
        exclusions.exclude(one, people[name], by=researcher, reason="no reason")
    Exclusion.objects.filter(rater=people["long ago"]).update(at=timezone.now() - timedelta(days=3))
    Exclusion.objects.create(campaign=other, rater=people["elsewhere"], by=researcher, reason="of another campaign")
    Answer.objects.filter(rater=people["elsewhere"]).update(standing=Answer.Standing.SURPLUS)
    # As if it had been taken back, but not yet been counted again.
    Exclusion.objects.filter(rater=people["lifted"]).update(lifted=timezone.now())

    by_campaign = {row.campaign: row.shares for row in admin_overview().campaigns}
    shares = by_campaign[one]
    assert (shares.answers, shares.left, shares.answers_before, shares.left_before) == (10, 8, 10, 6)
    assert (shares.answers_today, shares.left_today, shares.raters_today) == (0, 0, 0)
    assert (by_campaign[other].answers_today, by_campaign[other].raters_today, by_campaign[other].left) == (2, 1, 0)
    assert admin_overview().raters == 1


def test_the_audit_log_is_filtered_and_read_page_by_page(signed_in: Client, admin: User, researcher: User) -> None:
    for index in range(120):
        record(researcher if index % 2 else admin, "changed" if index % 3 else "launched", f"thing {index:03d}")
    seen: list[str] = []
    url = "/audit/?person=researcher"
    pages = 0
    while url:
        body = signed_in.get(url).content.decode()
        seen += re.findall(r"<td>(thing \d+)</td>", body)
        older = re.search(r'rel="next" href="([^"]+)"', body)
        url = f"/audit/{older[1]}".replace("&amp;", "&") if older else ""
        pages += 1
    assert pages == 2
    assert seen == [f"thing {index:03d}" for index in range(119, 0, -2)]
    back = re.search(r'rel="prev" href="([^"]+)"', body)
    assert back is not None
    newer = signed_in.get(f"/audit/{back[1]}".replace("&amp;", "&")).content.decode()
    assert re.findall(r"<td>(thing \d+)</td>", newer) == seen[:50]
    one = signed_in.get("/audit/?action=launched&kind=thing+003").content.decode()
    assert re.findall(r"<td>(thing \d+)</td>", one) == ["thing 003"]


@pytest.mark.parametrize(
    "query", ["before=x", "since=yesterday", "number=99999999999999999999", "person=%00", "kind=no"]
)
def test_a_filter_that_makes_no_sense_is_left_out(signed_in: Client, admin: User, query: str) -> None:
    record(admin, "changed", admin)
    response = signed_in.get(f"/audit/?{query}")
    assert response.status_code == 200
    assert "changed" in response.content.decode()


def test_the_log_is_filtered_by_days(signed_in: Client, admin: User) -> None:
    record(admin, "changed", "thing")
    today = timezone.now().date()
    shown = {day: "<td>thing</td>" in signed_in.get(f"/audit/?since={day}&until={day}").content.decode()
             for day in (today, today - timedelta(days=1))}  # fmt: skip
    assert shown == {today: True, today - timedelta(days=1): False}


def test_the_downloaded_log_executes_nothing_and_is_written_down(signed_in: Client, admin: User) -> None:
    guest = User.objects.create_user("+guest")
    record(guest, "changed", guest, note="=1+1")
    lines = b"".join(signed_in.get("/audit/audit.csv?person=%2Bguest")).decode("utf-8-sig").splitlines()  # type: ignore[arg-type]
    assert lines[0] == "at,person,action,kind,number,label,details"
    assert lines[1].split(",")[1] == "'+guest"
    assert len(lines) == 2
    entry = AuditEntry.objects.get(action="downloaded")
    assert (entry.actor, entry.kind, entry.details["query"]) == (admin, "audit log", "person=%2Bguest")


def test_the_history_of_a_run_is_on_its_page_for_whoever_may_change_it(client: Client, researcher: User) -> None:
    run = run_of(DIAMOND, researcher)
    Run.objects.update(shared=True)
    other = User.objects.create_user("other", role=Role.RESEARCHER)
    for person, sees in ((researcher, True), (other, False)):
        client.force_login(person)
        page = client.get(f"/runs/{run.pk}/details/")
        assert page.status_code == 200
        assert ("who did what, and when" in page.content.decode()) is sees


def test_the_function_that_lifts_refuses_twice(researcher: User) -> None:
    fill(researcher, 1)
    exclusion = Exclusion.objects.get()
    exclusions.lift(exclusion, by=researcher)
    with pytest.raises(UserError):
        exclusions.lift(exclusion, by=researcher)
