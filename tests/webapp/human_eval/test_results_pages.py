"""Who may open the results, the browser of items, the table of raters, and excluding one."""

import pytest
from django.test import Client

from rso_core.config import RunConfig
from tests.webapp.graphs import stage_of
from tests.webapp.human_eval.made_campaigns import answer, expire, known_item, made_campaign, made_rater, verdict
from tests.webapp.human_eval.test_results_figures import CHOICES, rated
from tests.webapp.made_runs import config_of, finish_run, imported, launched, signed_in
from webapp.accounts.models import AuditEntry, Role, User
from webapp.human_eval import assignment
from webapp.human_eval.models import Answer, Campaign, Exclusion, Flag, Item, Response
from webapp.human_eval.results import Options, campaign_figures
from webapp.human_eval.results_items import item_rows, shown_items
from webapp.human_eval.results_raters import if_excluded, if_lifted

pytestmark = pytest.mark.django_db

PAGES = (
    "results/", "results/live/", "results.json", "results.csv", "answers.csv", "answers.jsonl", "items.jsonl",
    "preferences/", "items/", "items/1/", "raters/",
)  # fmt: skip


@pytest.fixture
def colleague(db: None) -> User:
    return User.objects.create_user("colleague", password="correct horse", role=Role.RESEARCHER)


def statuses(client: Client, campaign: Campaign) -> set[int]:
    return {client.get(f"/campaigns/{campaign.pk}/{page}").status_code for page in PAGES}


def test_owners_and_admins_see_everything_others_only_what_is_shared_and_raters_nothing(
    client: Client, researcher: User, colleague: User, admin: User, rater: User
) -> None:
    campaign = rated(researcher)
    assert statuses(signed_in(researcher), campaign) == {200}
    assert statuses(signed_in(admin), campaign) == {200}
    assert statuses(signed_in(colleague), campaign) == {404}
    assert statuses(signed_in(rater), campaign) == {403}
    assert statuses(client, campaign) == {302}
    Campaign.objects.update(shared=True)
    assert statuses(signed_in(colleague), campaign) == {200}
    assert statuses(signed_in(rater), campaign) == {403}


def test_whoever_only_sees_a_shared_campaign_may_not_decide_about_its_raters_and_flags(
    researcher: User, colleague: User
) -> None:
    campaign = rated(researcher, shared=True)
    who = campaign.answers.first().rater
    flag = Flag.objects.create(item=campaign.items.first(), rater=who, reason="unsafe")
    client = signed_in(colleague)
    own = f"/campaigns/{campaign.pk}/"
    assert "Exclude this rater" not in client.get(f"{own}raters/{who}/").content.decode()
    for address in (f"raters/{who}/exclude/", f"raters/{who}/lift/", f"flags/{flag.pk}/settle/"):
        assert client.post(own + address, {"reason": "because"}).status_code == 403, address
    assert not Exclusion.objects.exists()
    assert Flag.objects.get().settled is None


def test_things_of_other_campaigns_are_not_found_through_ones_own(researcher: User, admin: User) -> None:
    mine, other = rated(researcher), rated(admin)
    stranger = other.answers.first().rater
    flag = Flag.objects.create(item=other.items.first(), rater=stranger, reason="other")
    client = signed_in(researcher)
    assert client.get(f"/campaigns/{mine.pk}/raters/{stranger}/").status_code == 404
    assert client.post(f"/campaigns/{mine.pk}/raters/{stranger}/exclude/", {"reason": "x"}).status_code == 404
    assert client.post(f"/campaigns/{mine.pk}/flags/{flag.pk}/settle/").status_code == 404
    assert client.get(f"/campaigns/{mine.pk}/items/99/").status_code == 404


def test_items_are_listed_with_their_votes_disagreements_first(researcher: User) -> None:
    campaign = rated(researcher)
    rows = shown_items(item_rows(campaign), show="", sort="", matching=None)
    assert [row.index for row in rows] == [3, 1, 2, 0]
    assert [row.outcome for row in rows] == ["no majority", 0, "same", 0]
    assert [round(row.disagreement, 3) for row in rows] == [1, 0.667, 0.667, 0]
    assert rows[1].votes == pytest.approx((2, 1, 0, 0))
    assert rows[0].quality == pytest.approx((11 / 3, 11 / 3, 11 / 3))


def test_items_can_be_filtered_searched_and_sorted(researcher: User) -> None:
    campaign = rated(researcher)
    item = campaign.items.get(index=1)
    Flag.objects.create(item=item, rater=made_rater(), reason="unsafe", note="look")
    Response.objects.filter(item=item, index=2).update(named="GPT-4")
    known_item(campaign)
    client, own = signed_in(researcher), f"/campaigns/{campaign.pk}/items/"

    def found(query: str) -> list[int]:
        return [entry["row"].index for entry in client.get(f"{own}?{query}").context["rows"]]

    assert found("sort=index") == [0, 1, 2, 3]
    assert found("sort=-index") == [3, 2, 1, 0]
    assert found("show=agreed") == [0]
    assert found("show=split&sort=index") == [1, 2, 3]
    assert found("show=no_majority") == [3]
    assert found("show=same") == [2]
    assert found("show=won-0&sort=index") == [0, 1]
    assert found("show=flagged") == found("show=named") == [1]
    assert found("show=known") == [4]
    assert found("show=unrated") == found("show=identical") == []
    assert found("q=Post+2%3A") == [2]
    assert found("q=Answer+1+to+post+3.") == [3]
    assert found("q=%00") == found("show=nonsense&sort=nonsense&page=99")


def test_an_item_shows_every_answer_as_it_stood_on_the_screen(researcher: User) -> None:
    campaign = made_campaign(researcher, items=1)
    first, second = made_rater(campaign), made_rater(campaign)
    given = answer(campaign, first, verdict(best=2, reason="it is short"))
    late = answer(campaign, second)
    Answer.objects.filter(pk=late.pk).update(standing="surplus", surplus_reason="it came late")
    response = signed_in(researcher).get(f"/campaigns/{campaign.pk}/items/1/")
    shown = response.context["answers"]
    labels = list(campaign.systems.values_list("label", flat=True))
    assert [name for name, _ in shown[0].places] == [labels[int(index)] for index in given.order]
    assert dict(shown[0].places) == {labels[0]: 3, labels[1]: 3, labels[2]: 5}
    assert shown[0].chosen == labels[2]
    body = response.content.decode()
    for words in ("it is short", "it came late", first.pseudonym, second.pseudonym, "Answer 1 to post 0."):
        assert words in body


def test_a_flag_is_settled_and_opened_again_and_both_are_written_down(researcher: User) -> None:
    campaign = rated(researcher)
    flag = Flag.objects.create(
        item=campaign.items.get(index=2), rater=campaign.answers.first().rater, reason="names_system", response=1
    )
    client, address = signed_in(researcher), f"/campaigns/{campaign.pk}/flags/{flag.pk}/settle/"
    assert client.post(address)["Location"] == f"/campaigns/{campaign.pk}/items/3/"
    flag.refresh_from_db()
    assert flag.settled is not None
    assert "Open again" in client.get(f"/campaigns/{campaign.pk}/items/3/").content.decode()
    client.post(address, {"again": "1"})
    flag.refresh_from_db()
    assert flag.settled is None
    assert list(AuditEntry.objects.order_by("pk").values_list("action", flat=True))[-2:] == ["settled", "reopened"]
    assert client.get(address).status_code == 405


def test_a_known_item_is_shown_with_what_was_expected_and_does_not_enter_the_results(researcher: User) -> None:
    campaign = made_campaign(researcher, items=1, replicas=1, check_share=0.1)
    who = made_rater(campaign)
    answer(campaign, who)  # before there is a known item, which a rater gets now and then
    check = known_item(campaign, expected=1)
    Answer.objects.create(
        campaign=campaign, item=check, rater=who, standing="surplus", order="012", quality_0=5, quality_1=3, quality_2=3,
        choice=0, same=False, submitted=campaign.created,
    )  # fmt: skip
    figures = campaign_figures(campaign, Options()).values
    assert figures["results"]["answers"] == 1
    assert [(row["checks"], row["checks_failed"]) for row in figures["raters"]] == [(1, 1)]
    body = signed_in(researcher).get(f"/campaigns/{campaign.pk}/items/{check.number}/").content.decode()
    assert "check task, expected: response 2" in body
    assert "not as expected" in body


def test_excluding_a_rater_recomputes_everything_and_lifting_brings_it_back(researcher: User) -> None:
    campaign = rated(researcher)
    client = signed_in(researcher)
    before = campaign_figures(campaign, Options()).values["results"]
    who = campaign.answers.order_by("pk").last().rater  # says 0, 1, 1, 2
    own = f"/campaigns/{campaign.pk}/raters/{who}/"
    would = if_excluded(campaign, who)
    assert (would.answers, would.reopened, would.rest_on) == (4, 4, [(2, 4)])
    body = client.get(own).content.decode()
    assert "4 counted answers would no longer count" in body
    assert "4 places would be open to other raters again" in body
    assert "4 tasks would rest on 2 answers." in body

    response = client.post(f"{own}exclude/", {"reason": "  "})
    assert response.status_code == 400
    assert "Excluding a rater needs a reason" in response.content.decode()
    assert client.post(f"{own}exclude/", {"reason": "chose at random"}).status_code == 302

    after = campaign_figures(campaign, Options()).values["results"]
    assert (after["answers"], after["raters"], after["items_by_answers"]) == (8, 2, {"3": 0, "2": 4, "1": 0})
    assert [system["chosen"]["value"] for system in after["systems"]] == [0.5, 0, 0]
    assert (after["same"]["value"], after["no_majority"]["value"]) == (0.25, 0.25)
    results = client.get(f"/campaigns/{campaign.pk}/results/").content.decode()
    assert "chose at random" in results
    assert "4 tasks rest on 2 answers" in results
    assert "excluded" in client.get(f"/campaigns/{campaign.pk}/raters/").content.decode()

    assert if_lifted(campaign, who).answers == 4
    assert "4 answers count again" in client.get(own).content.decode()
    assert client.post(f"{own}lift/").status_code == 302
    assert campaign_figures(campaign, Options()).values["results"] == before
    assert {"excluded", "lifted"} <= set(AuditEntry.objects.values_list("action", flat=True))
    assert "lifted" in client.get(own).content.decode()


def test_places_that_others_have_taken_meanwhile_are_told_before_lifting(researcher: User) -> None:
    campaign = made_campaign(researcher, items=2, replicas=1)
    first, second = made_rater(campaign), made_rater(campaign)
    answer(campaign, first)
    answer(campaign, first)
    client = signed_in(researcher)
    client.post(f"/campaigns/{campaign.pk}/raters/{first}/exclude/", {"reason": "too fast"})
    answer(campaign, second)
    would = if_lifted(campaign, first)
    assert (would.answers, would.lost) == (1, 1)
    assert "1 stays out as surplus" in client.get(f"/campaigns/{campaign.pk}/raters/{first}/").content.decode()
    client.post(f"/campaigns/{campaign.pk}/raters/{first}/lift/")
    standings = Answer.objects.filter(rater=first).order_by("standing").values_list("standing", flat=True)
    assert list(standings) == ["counted", "surplus"]


def test_raters_are_listed_with_what_looks_odd_first(researcher: User) -> None:
    campaign = made_campaign(researcher, items=10, replicas=2)
    fast, careful, newcomer = made_rater(campaign), made_rater(campaign), made_rater(campaign)
    for _ in range(10):
        slot = assignment.claim(campaign, careful)
        assert slot is not None
        expire()
        answer(campaign, careful, best=0)
        slot = assignment.claim(campaign, fast)
        assert slot is not None
        answer(campaign, fast, best=int(slot.order[0]))
    Answer.objects.filter(rater=fast).update(active_ms=1500)
    Answer.objects.filter(rater=careful).update(active_ms=60_000)
    rows = signed_in(researcher).get(f"/campaigns/{campaign.pk}/raters/").context["page"]
    assert [row.rater for row in rows] == [fast, careful, newcomer]
    assert set(rows[0].flags) == {"always left", "too fast"}
    assert rows[0].figures["median_seconds"] == 1.5
    assert rows[2].given == 0
    by_time = signed_in(researcher).get(f"/campaigns/{campaign.pk}/raters/?sort=-median_seconds").context["page"]
    assert [row.rater for row in by_time] == [careful, fast, newcomer]


def test_a_playground_has_no_page_of_results(researcher: User) -> None:
    campaign = rated(researcher, CHOICES, kind="playground")
    assert statuses(signed_in(researcher), campaign) == {404}


def test_known_items_have_no_neighbour_beyond_the_last(researcher: User) -> None:
    campaign = made_campaign(researcher, items=2)
    first, second = campaign.items.order_by("index")
    client = signed_in(researcher)
    assert client.get(f"/campaigns/{campaign.pk}/items/1/").context["beside"] == {"before": None, "after": second}
    assert client.get(f"/campaigns/{campaign.pk}/items/2/").context["beside"] == {"before": first, "after": None}
    assert client.get(f"/campaigns/{campaign.pk}/items/0/").status_code == 404
    assert Item.objects.count() == 2


def test_auto_sxs_of_a_judge_at_chance_is_greyed_with_its_reason(researcher: User) -> None:
    imported(researcher)
    campaign, judge = rated(researcher), {"judge": {"backend": "model", "model": "tiny"}}
    run = launched(researcher, RunConfig.model_validate(config_of("judged").model_dump() | judge))
    finish_run(run)
    campaign.systems.filter(index=0).update(kind="policy", run=run)
    client = signed_in(researcher)

    def shown() -> tuple[str, str]:
        pages = (client.get(f"/campaigns/{campaign.pk}/{page}") for page in ("results/", "results.csv"))
        return tuple(b"".join(page).decode() for page in pages)

    page, table = shown()
    assert "AutoSxS win rate" in page
    assert "not better than chance" not in page + table

    report = stage_of(run, "report")
    report.summary["judge"]["better_than_chance"] = False
    report.save()
    page, table = shown()
    assert page.count("doubtful") == page.count("judge not better than chance") == 1
    assert "AutoSxS: judge not better than chance" in table
