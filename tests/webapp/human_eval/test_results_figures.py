"""The figures on the page are those of the pure functions, and those that one can count by hand."""

import json
import re
import threading
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from rso_core.human_eval import results
from tests.webapp.human_eval.made_campaigns import answer, made_campaign, made_rater, verdict
from tests.webapp.made_runs import signed_in
from webapp.accounts.models import User
from webapp.human_eval.assignment import Verdict
from webapp.human_eval.models import Answer, Campaign, Rater, Response, ResultsSnapshot
from webapp.human_eval.results import Options, campaign_figures
from webapp.human_eval.results_data import read_ratings, state_of
from webapp.human_eval.results_page import results_page
from webapp.human_eval.results_systems import shown_systems
from webapp.human_eval.results_totals import totals_of

pytestmark = pytest.mark.django_db

# What three raters choose of four items. By hand: system 0 wins item 0 (3 of 3) and item 1 (2 of 3), "same" wins
# item 2 (2 of 3), item 3 has no majority (1-1-1). Votes: system 0 has 6 of 12, 1 has 3, 2 has 1, "same" has 2.
CHOICES = ((0, 0, 0), (0, 0, 1), (None, None, 1), (0, 1, 2))


def rated(owner: User, choices: Any = CHOICES, **fields: Any) -> Campaign:
    """A campaign in which rater r chose choices[item][r]; the chosen response has 5, the others 3, at "same" all 3."""
    campaign = made_campaign(owner, items=len(choices), replicas=len(choices[0]), **fields)
    for number in range(len(choices[0])):
        rater = made_rater(campaign)
        for _ in choices:
            given = answer(campaign, rater, best=None)
            said = choices[given.item.index][number]
            quality = [5 if index == said else 3 for index in range(3)][: campaign.way]
            Answer.objects.filter(pk=given.pk).update(
                choice=said, same=said is None, **{f"quality_{index}": value for index, value in enumerate(quality)}
            )
    return campaign


def test_a_tiny_campaign_has_the_figures_counted_by_hand(researcher: User) -> None:
    found = campaign_figures(rated(researcher), Options()).values["results"]
    assert [system["chosen"]["value"] for system in found["systems"]] == [0.5, 0, 0]
    assert (found["same"]["value"], found["no_majority"]["value"]) == (0.25, 0.25)
    assert [system["vote_share"]["value"] for system in found["systems"]] == pytest.approx([6 / 12, 3 / 12, 1 / 12])
    assert found["same_share"]["value"] == pytest.approx(2 / 12)
    assert [system["quality"]["value"] for system in found["systems"]] == pytest.approx([4, 3.5, 3 + 2 / 12])
    assert (found["items"], found["answers"], found["raters"]) == (4, 12, 3)


def test_the_figures_are_those_of_the_pure_functions(researcher: User) -> None:
    campaign = rated(researcher)
    for rater, seconds in zip(Rater.objects.filter(answers__campaign=campaign).distinct(), (10, 30, 90), strict=True):
        Answer.objects.filter(rater=rater).update(active_ms=1000 * seconds, elapsed_ms=1000 * seconds)
    values = campaign_figures(campaign, Options()).values
    expected = results(read_ratings(campaign), seed=campaign.seed, wanted=3).as_dict()
    assert values["results"] == json.loads(json.dumps(expected))
    assert (values["median_tasks"], values["median_seconds"]) == (4, 30)
    assert values["histogram"] == [[0, 0, 6, 0, 6], [0, 0, 9, 0, 3], [0, 0, 11, 0, 1]]


def test_the_page_shows_table_4(researcher: User) -> None:
    campaign = rated(researcher)
    body = signed_in(researcher).get(f"/campaigns/{campaign.pk}/results/").content.decode()
    row = body.split("policy-rso-7b</")[0].rsplit("<tr", 1)[0]
    assert "About the same" in body
    assert "No majority" in body
    assert "50.0\u00a0%" in body
    assert "4.00 <span" in body
    assert "not distinguishable at this N" in body
    assert "3</b> raters, median 4 tasks each" in body
    assert row


def test_answers_that_do_not_count_are_named_with_their_reason(researcher: User) -> None:
    campaign = rated(researcher)
    late = campaign.answers.order_by("pk").first()
    Answer.objects.filter(pk=late.pk).update(standing="surplus", surplus_reason="its time had run out")
    totals = totals_of(campaign)
    assert (totals.counted, totals.surplus, totals.given) == (11, 1, 12)
    assert totals.surplus_reasons == [("its time had run out", 1)]
    assert totals.rest_on == [(3, 3), (2, 1)]
    body = signed_in(researcher).get(f"/campaigns/{campaign.pk}/results/").content.decode()
    assert "1: its time had run out" in body
    assert "1 task rests on 2 answers" in body


def test_identical_responses_are_counted_with_split_votes_and_left_out_when_asked_for(researcher: User) -> None:
    campaign = rated(researcher, ((0, 0, 0), (1, 1, 1)))
    Response.objects.filter(item__campaign=campaign, item__index=0, index__in=[0, 1]).update(text="The same.")
    counted = campaign_figures(campaign, Options()).values["results"]
    assert (counted["identical_items"], counted["left_out"], counted["items"]) == (1, 0, 2)
    assert [system["vote_share"]["value"] for system in counted["systems"]] == [0.25, 0.75, 0]
    left_out = campaign_figures(campaign, Options(leave_out_identical=True)).values["results"]
    assert (left_out["identical_items"], left_out["left_out"], left_out["items"]) == (1, 1, 1)
    assert [system["vote_share"]["value"] for system in left_out["systems"]] == [0, 1, 0]
    client = signed_in(researcher)
    assert "Leave out the 1 task " in client.get(f"/campaigns/{campaign.pk}/results/").content.decode()
    shown = client.get(f"/campaigns/{campaign.pk}/results/?identical=out").content.decode()
    assert "1 task with identical responses left out" in shown


def test_where_everybody_says_the_same_alpha_is_called_undefined(researcher: User) -> None:
    campaign = rated(researcher, ((0, 0, 0), (0, 0, 0)))
    body = signed_in(researcher).get(f"/campaigns/{campaign.pk}/results/").content.decode()
    assert "undefined: no variation" in body
    assert not re.search(r"\bnan\b", body.lower())


def test_two_way_campaigns_show_wins_ties_and_losses_against_the_reference(researcher: User) -> None:
    campaign = rated(researcher, ((0, 0), (1, 1), (None, None), (0, 1)), way=2)
    campaign.systems.filter(index=0).update(is_reference=True)
    figures = campaign_figures(campaign, Options())
    side = results_page(campaign, shown_systems(campaign, researcher), figures, totals_of(campaign)).side_by_side
    assert side is not None
    assert (side.system.index, side.reference.index) == (1, 0)
    assert [rate["value"] for rate in (side.win, side.loss, side.tie, side.no_majority)] == [0.25] * 4
    assert side.win_rate["value"] == 0.5
    assert "Win rate of the votes" in signed_in(researcher).get(f"/campaigns/{campaign.pk}/results/").content.decode()


def test_a_campaign_without_answers_says_what_to_do(researcher: User) -> None:
    client = signed_in(researcher)
    for status, words in (("open", "Nobody has rated yet"), ("draft", "The campaign is a draft")):
        campaign = made_campaign(researcher, status=status)
        for address in ("results/", "items/", "raters/", "results.json", "results.csv", "preferences/"):
            assert client.get(f"/campaigns/{campaign.pk}/{address}").status_code == 200, address
        assert words in client.get(f"/campaigns/{campaign.pk}/results/").content.decode()


def test_an_answer_and_a_change_make_new_figures_and_nothing_else_does(researcher: User) -> None:
    campaign = made_campaign(researcher)
    rater = made_rater(campaign)
    given = answer(campaign, rater)
    first = campaign_figures(campaign, Options())
    assert campaign_figures(campaign, Options()).made == first.made
    assert ResultsSnapshot.objects.count() == 1

    state = state_of(campaign)
    from webapp.human_eval.assignment import change

    change(given, verdict(best=2))
    assert state_of(campaign) != state
    assert campaign_figures(campaign, Options()).values["results"]["systems"][2]["chosen"]["value"] == 1
    answer(campaign, rater, Verdict(quality=(1, 2, 3), choice=None, same=True))
    assert campaign_figures(campaign, Options()).values["results"]["answers"] == 2
    assert ResultsSnapshot.objects.count() == 1


def test_polling_viewers_are_shown_figures_of_a_moment_ago_while_answers_stream_in(researcher: User) -> None:
    campaign = made_campaign(researcher)
    rater = made_rater(campaign)
    answer(campaign, rater)
    campaign_figures(campaign, Options())
    ResultsSnapshot.objects.update(seconds=60)
    answer(campaign, rater)
    assert campaign_figures(campaign, Options(), may_be_older=True).values["results"]["answers"] == 1
    assert campaign_figures(campaign, Options()).values["results"]["answers"] == 2


def test_an_unchanged_page_is_answered_with_304(researcher: User) -> None:
    campaign = rated(researcher)
    client, address = signed_in(researcher), f"/campaigns/{campaign.pk}/results/live/?was=live"
    tag = client.get(address)["ETag"]
    assert client.get(address, headers={"If-None-Match": tag}).status_code == 304
    ResultsSnapshot.objects.update(seconds=0)  # else figures of a moment ago would do
    first = campaign.answers.order_by("pk").first()
    assert first is not None
    first.reason = "now with a reason"
    first.quality_1 = 4
    first.save()
    assert client.get(address, headers={"If-None-Match": tag}).status_code == 200


@pytest.mark.django_db(transaction=True)
def test_viewers_at_the_same_time_compute_once(researcher: User, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = rated(researcher)
    computed: list[int] = []
    from webapp.human_eval import results as module

    original = module.figures_of

    def counted(*arguments: Any, **options: Any) -> Any:
        computed.append(1)
        return original(*arguments, **options)

    monkeypatch.setattr(module, "figures_of", counted)

    def look() -> None:
        campaign_figures(campaign, Options())
        connection.close()

    viewers = [threading.Thread(target=look) for _ in range(6)]
    for viewer in viewers:
        viewer.start()
    for viewer in viewers:
        viewer.join()
    assert len(computed) == 1


def test_figures_for_programs_are_those_of_the_page(client: Client, researcher: User) -> None:
    campaign = rated(researcher)
    found = signed_in(researcher).get(f"/campaigns/{campaign.pk}/results.json").json()
    assert found["systems"] == list(campaign.systems.values_list("label", flat=True))
    assert found["results"]["same"]["value"] == 0.25
    assert {row["rater"] for row in found["raters"]} == {who.pseudonym for who in Rater.objects.all()}
