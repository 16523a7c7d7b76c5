"""The life of a question without any worker: who claims what, and how it can end."""

from datetime import timedelta

import pytest
from django.db.models import F
from django.db.models.functions import Now

from rso_core.errors import UserError
from rso_core.protocol import Partial
from tests.webapp.playground.asked import MESSAGES, answered, asked, claimed, generation_of, made_policy
from webapp.accounts.models import AuditEntry, User
from webapp.playground import answering, asking, limits, tidying
from webapp.playground.models import Generation, Question

pytestmark = pytest.mark.django_db


def states(question: Question) -> list[str]:
    return list(question.generations.values_list("status", flat=True))


def test_answers_are_claimed_from_the_oldest_question_and_from_left_to_right(researcher: User, admin: User) -> None:
    first, second = asked(researcher, "a", "b", "c", is_blind=True), asked(admin, "d")
    taken = [generation_of(claimed()) for _ in range(4)]
    assert [(one.question_id, one.place) for one in taken] == [
        (first.pk, 0),
        (first.pk, 1),
        (first.pk, 2),
        (second.pk, 0),
    ]
    assert answering.claim(worker="gpu@here", has_gpu_queue=True) is None


def test_a_worker_of_the_cpu_queue_leaves_a_gpu_worker_a_moment_to_take_it(researcher: User) -> None:
    question = asked(researcher, "a")
    assert answering.claim(worker="cpu@here", has_gpu_queue=False) is None
    question.generations.update(created=Now() - limits.CPU_PATIENCE)
    assert answering.claim(worker="cpu@here", has_gpu_queue=False) is not None


def test_what_is_told_and_what_is_answered_is_what_the_page_shows(researcher: User) -> None:
    question = asked(researcher, "a", "b")
    claim = claimed()
    answering.tell(claim, Partial(text="the c\x00", tokens=2))
    watched = asking.watch(question.pk, owner=researcher)
    assert watched is not None
    assert not watched.is_over
    assert [(answer.status, answer.text) for answer in watched.answers] == [("running", "the c�"), ("waiting", "")]
    answering.finish(claim, {"text": "the cat", "tokens": 3, "truncated": True, "prompt_truncated": False})
    answered(question)
    watched = asking.watch(question.pk, owner=researcher)
    assert watched is not None
    assert watched.is_over
    assert [(answer.status, answer.text) for answer in watched.answers] == [
        ("done", "the cat"),
        ("done", "answer of b"),
    ]
    assert watched.answers[0].truncated


def test_nobody_sees_watches_or_cancels_the_question_of_somebody_else(researcher: User, admin: User) -> None:
    question = asked(researcher, "a")
    Question.objects.update(watched=Now() - timedelta(seconds=5))
    before = Question.objects.get().watched
    assert asking.watch(question.pk, owner=admin) is None
    asking.cancel(question.pk, owner=admin)
    assert Question.objects.get().watched == before
    assert states(question) == ["waiting"]
    assert asking.last_question(admin) is None
    assert asking.last_question(researcher) == question.pk


def test_a_cancelled_answer_stays_as_it_was_and_its_worker_is_told(researcher: User) -> None:
    question = asked(researcher, "a", "b")
    claim = claimed()
    answering.tell(claim, Partial(text="the", tokens=1))
    asking.cancel(question.pk, owner=researcher)
    assert states(question) == ["stopped", "stopped"]
    with pytest.raises(answering.AnswerLost):
        answering.tell(claim, Partial(text="the cat", tokens=2))
    with pytest.raises(answering.AnswerLost):
        answering.finish(claim, {"text": "the cat", "tokens": 3, "truncated": False, "prompt_truncated": False})
    assert question.generations.get(place=0).text == "the"


def test_what_nobody_watches_is_dropped_also_while_it_is_written(researcher: User) -> None:
    question = asked(researcher, "a", "b")
    claim = claimed()
    Question.objects.update(watched=Now() - limits.UNWATCHED - timedelta(seconds=1))
    assert answering.claim(worker="gpu@here", has_gpu_queue=True) is None
    with pytest.raises(answering.AnswerLost):
        answering.tell(claim, None)
    assert set(question.generations.values_list("status", "message")) == {("stopped", tidying.UNWATCHED)}


def test_what_takes_too_long_fails_and_says_so(researcher: User) -> None:
    question = asked(researcher, "a", "b")
    claim = claimed()
    Generation.objects.filter(status="running").update(started=Now() - limits.LONGEST_WORK - timedelta(seconds=1))
    with pytest.raises(answering.AnswerLost):
        answering.tell(claim, None)
    Generation.objects.filter(status="waiting").update(created=Now() - limits.LONGEST_WAIT - timedelta(seconds=1))
    watched = asking.watch(question.pk, owner=researcher)
    assert watched is not None
    assert [answer.message for answer in watched.answers] == [tidying.TOO_LONG, tidying.NO_WORKER]


def test_an_answer_of_a_killed_worker_is_begun_anew_once_and_fails_then(researcher: User) -> None:
    question = asked(researcher, "a")
    first = claimed()
    answering.tell(first, Partial(text="lost", tokens=1))
    Generation.objects.update(lease_expires=Now() - timedelta(seconds=1))
    tidying.tidy()
    again = question.generations.get()
    assert (again.status, again.text, again.worker) == ("waiting", "", "")
    second = claimed("other@here")
    assert second.attempt == 2
    with pytest.raises(answering.AnswerLost):  # the first one was only frozen, and wakes up
        answering.finish(first, {"text": "late", "tokens": 1, "truncated": False, "prompt_truncated": False})
    Generation.objects.update(lease_expires=Now() - timedelta(seconds=1))
    tidying.tidy()
    assert [(one.status, one.message) for one in question.generations.all()] == [("failed", tidying.WORKER_LOST)]


def test_a_worker_that_is_asked_to_leave_gives_the_answer_back_without_an_attempt(researcher: User) -> None:
    question = asked(researcher, "a")
    answering.give_back(claimed())
    given = question.generations.get()
    assert (given.status, given.attempt, given.lease_expires) == ("waiting", 0, None)


def test_the_failure_of_one_model_leaves_the_others_alone(researcher: User) -> None:
    question = asked(researcher, "a", "b")
    answering.fail(claimed(), "its files are gone")
    answered(question)
    assert [(one.status, one.message) for one in question.generations.all()] == [
        ("failed", "its files are gone"),
        ("done", ""),
    ]


def test_place_in_the_queue_and_expected_wait_come_from_what_is_before_it(researcher: User, admin: User) -> None:
    answered(asked(admin, "a", "b"))
    Generation.objects.update(started=F("finished") - timedelta(seconds=8))
    asked(admin, "c", "d", "e")
    claimed()
    mine = asking.watch(asked(researcher, "a").pk, owner=researcher)
    assert mine is not None
    assert (mine.ahead, mine.seconds) == (3, 24.0)
    assert not asking.workers_are_there()


def test_questions_are_bounded_in_length_tokens_models_and_number(researcher: User) -> None:
    for messages, values, words in (
        ([{"role": "user", "content": " "}], {}, "write a prompt"),
        ([{"role": "user", "content": "x" * (limits.LONGEST_PROMPT + 1)}], {}, "20,000 characters"),
        (MESSAGES, {"max_tokens": limits.LONGEST_ANSWER + 1}, "up to 512 tokens"),
        (MESSAGES, {"temperature": 0.0}, "temperature"),
        (MESSAGES, {"top_k": -1}, "top_k"),
    ):
        with pytest.raises(UserError, match=words):
            asking.ask(researcher, messages, [made_policy("a")], is_blind=True, sampling=asking.Sampling(**values))
    for _ in range(limits.LIVE_QUESTIONS):
        asked(researcher, "a")
    with pytest.raises(UserError, match="2 of your questions are being answered"):
        asked(researcher, "a")
    asking.cancel(asking.last_question(researcher) or 0, owner=researcher)
    assert asked(researcher, "a").pk


def test_a_blind_question_is_placed_by_lot_and_an_open_one_in_the_order_of_choice(researcher: User) -> None:
    places = set()
    for _ in range(30):
        question = asked(researcher, "a", "b", "c", is_blind=True)
        places.add(tuple(question.generations.order_by("index").values_list("place", flat=True)))
        asking.cancel(question.pk, owner=researcher)
    assert len(places) > 3
    question = asked(researcher, "a", "b", "c")
    assert list(question.generations.order_by("index").values_list("place", flat=True)) == [0, 1, 2]
    assert len({one.asked["seed"] for one in question.generations.all()}) == 1


def test_asking_stands_in_the_audit_log(researcher: User) -> None:
    asked(researcher, "a", "b")
    entry = AuditEntry.objects.get(action="asked")
    assert (entry.actor, entry.details) == (researcher, {"models": ["a", "b"]})
