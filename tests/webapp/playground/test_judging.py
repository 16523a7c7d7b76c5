"""What a judgement leaves in the tables of human evaluation, and what the leaderboard makes of it."""

import pytest

from rso_core.errors import UserError
from tests.webapp.playground.asked import MESSAGES, answered, asked, claimed
from webapp.accounts.models import User
from webapp.human_eval.models import Answer, Campaign, Item, Slot
from webapp.playground import answering
from webapp.playground.judging import Judgement, judge
from webapp.playground.leaderboard import board_of
from webapp.playground.models import Question

pytestmark = pytest.mark.django_db


def rated(owner: User, *names: str, best: str | None, is_blind: bool = False, quality: int = 3) -> Answer:
    question = asked(owner, *names, is_blind=is_blind)
    answered(question)
    places = dict(question.generations.values_list("label", "place"))
    scores = {place: quality + (label == best) for label, place in places.items()}
    return judge(question.pk, Judgement(scores, None if best is None else places[best]), owner=owner)


def test_a_judgement_is_kept_as_answers_of_campaigns_are(researcher: User) -> None:
    answer = rated(researcher, "a", "b", "c", best="c", is_blind=True)
    campaign = Campaign.objects.get()
    assert (campaign.kind, campaign.owner, campaign.status, campaign.shared) == (
        "playground",
        researcher,
        "closed",
        False,
    )
    item, slot = Item.objects.get(), Slot.objects.get()
    assert (item.prompt, item.messages, item.kind) == (MESSAGES[0]["content"], MESSAGES, "main")
    assert [(one.index, one.text, one.system and one.system.label) for one in item.responses.all()] == [
        (0, "answer of a", "a"), (1, "answer of b", "b"), (2, "answer of c", "c")
    ]  # fmt: skip
    question = Question.objects.get()
    left_to_right = "".join(
        str(index) for index in question.generations.order_by("place").values_list("index", flat=True)
    )
    assert (slot.status, slot.order, item.base_order, answer.order) == ("submitted", *[left_to_right] * 3)
    assert (answer.quality_0, answer.quality_1, answer.quality_2) == (3, 3, 4)
    assert (answer.choice, answer.same, answer.standing, answer.contradicts) == (2, False, "counted", False)
    assert answer.rater.user == researcher
    assert question.item == item


def test_two_answers_are_judged_when_the_third_model_failed(researcher: User) -> None:
    question = asked(researcher, "a", "b", "c")
    answering.fail(claimed(), "its files are gone")
    answered(question)
    answer = judge(question.pk, Judgement({1: 2, 2: 5}, None), owner=researcher)
    assert (answer.order, answer.quality_0, answer.quality_1, answer.quality_2, answer.same) == ("01", 2, 5, None, True)
    assert [one.system and one.system.label for one in answer.item.responses.all()] == ["b", "c"]


def test_a_choice_against_the_scores_is_kept_and_marked(researcher: User) -> None:
    question = asked(researcher, "a", "b")
    answered(question)
    assert judge(question.pk, Judgement({0: 5, 1: 1}, 1), owner=researcher).contradicts


def test_a_question_is_judged_once_whole_and_by_whoever_asked_it(researcher: User, admin: User) -> None:
    question = asked(researcher, "a", "b")
    with pytest.raises(UserError, match="still being written"):
        judge(question.pk, Judgement({0: 3, 1: 3}, None), owner=researcher)
    answered(question)
    with pytest.raises(UserError, match="there is no question"):
        judge(question.pk, Judgement({0: 3, 1: 3}, None), owner=admin)
    for judgement, words in (
        (Judgement({0: 3}, 0), "rate answer 2"),
        (Judgement({0: 3, 1: 6}, 0), "1 to 5, got 6"),
        (Judgement({0: 3, 1: 3}, 2), "answer 3 is not there"),
    ):
        with pytest.raises(UserError, match=words):
            judge(question.pk, judgement, owner=researcher)
    assert not Item.objects.exists()
    judge(question.pk, Judgement({0: 3, 1: 4}, 1), owner=researcher)
    with pytest.raises(UserError, match="judged this question already"):
        judge(question.pk, Judgement({0: 3, 1: 4}, 1), owner=researcher)
    assert Answer.objects.count() == 1


def test_one_answer_alone_cannot_be_judged(researcher: User) -> None:
    question = asked(researcher, "a")
    answered(question)
    with pytest.raises(UserError, match="needs 2 whole answers"):
        judge(question.pk, Judgement({0: 3}, 0), owner=researcher)


def test_each_researcher_has_one_playground_and_a_model_one_system_in_it(researcher: User, admin: User) -> None:
    Campaign.objects.create(
        owner=researcher, name="Playground", title="x", task="dialogue", quality_question="?", choice_question="?"
    )
    for _ in range(2):
        rated(researcher, "a", "b", best="a")
    rated(researcher, "b", "c", best="b")
    rated(admin, "a", "b", best="b")
    assert Campaign.objects.filter(kind="playground").count() == 2
    mine = Campaign.objects.get(owner=researcher, kind="playground")
    assert list(mine.systems.values_list("index", "label")) == [(0, "a"), (1, "b"), (2, "c")]
    assert list(mine.items.values_list("index", flat=True)) == [0, 1, 2]


def test_the_leaderboard_ranks_models_by_ones_own_judgements(researcher: User, admin: User) -> None:
    assert board_of(researcher).rows == []
    for _ in range(4):
        rated(researcher, "a", "b", "c", best="b")
    rated(researcher, "a", "c", best="a")
    rated(researcher, "a", "c", best=None)
    rated(admin, "a", "b", best="a")
    board = board_of(researcher)
    assert board.judgements == 6
    assert board.is_connected
    assert [(row.label, row.games, row.won) for row in board.rows] == [("b", 8, 8.0), ("a", 6, 1.5), ("c", 6, 0.5)]
    assert all(row.low < row.strength < row.high for row in board.rows)
    assert sum(row.strength for row in board.rows) == pytest.approx(0)


def test_judgements_of_others_count_only_for_whoever_may_see_them(researcher: User, admin: User) -> None:
    rated(researcher, "a", "b", best="b")
    rated(admin, "a", "b", best="a")
    assert board_of(admin, everybody=True).judgements == 2  # admins see every campaign
    assert board_of(researcher, everybody=True).judgements == 1
    Campaign.objects.filter(owner=admin).update(shared=True)
    assert board_of(researcher, everybody=True).judgements == 2
    assert board_of(researcher).judgements == 1
