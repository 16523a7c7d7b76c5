"""Keep what a researcher thought of the answers, in the tables of human evaluation.

Each researcher has one campaign of kind playground: a question that is rated becomes an item of it, with a response, a
slot and an answer as a campaign's have. It stands as closed, so that nothing of it is ever handed out to raters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import uuid4

from django.db import transaction
from django.db.models import Max
from django.db.models.functions import Now

from rso_core.errors import UserError
from webapp.accounts.models import User
from webapp.human_eval.models import Answer, Campaign, Item, Participation, Rater, Response, Slot, System
from webapp.playground.models import LIVE, Generation, Question

FEWEST = 2  # answers that can be compared
SCALE = range(1, 6)
_NAME = "Playground"


@dataclass(frozen=True)
class Judgement:
    """What somebody thought, by place from left to right; `best` is a place, None: about the same."""

    quality: Mapping[int, int]
    best: int | None


def judge(question_id: int, judgement: Judgement, *, owner: User) -> Answer:
    """Store a judgement; a question is judged once. Raises UserError when it cannot be (or is) judged, or is not theirs."""
    with transaction.atomic():
        question = Question.objects.select_for_update().filter(pk=question_id, owner=owner).first()
        if question is None:
            message = "there is no question to judge; ask one first"
            raise UserError(message)
        given = _given(question)
        _check(judgement, {generation.place for generation in given})
        campaign = _campaign_of(owner)
        item = _add_item(campaign, question, given)
        answer = _add_answer(campaign, item, question, given, judgement)
        question.item = item
        question.save(update_fields=["item"])
    return answer


def _given(question: Question) -> list[Generation]:
    """Return the answers that are there, in the order in which their models were chosen."""
    if question.item_id is not None:
        message = "you have judged this question already; ask another one"
        raise UserError(message)
    generations = list(question.generations.order_by("index"))
    if any(generation.status in LIVE for generation in generations):
        message = "an answer is still being written; wait for it, or stop it, then judge"
        raise UserError(message)
    given = [generation for generation in generations if generation.status == Generation.Status.DONE]
    if len(given) < FEWEST:
        message = f"a comparison needs {FEWEST} whole answers, and there are {len(given)}; ask two or three models"
        raise UserError(message)
    return given


def _check(judgement: Judgement, places: set[int]) -> None:
    missing = sorted(places - judgement.quality.keys())
    if missing:
        message = f"rate answer {' and answer '.join(str(place + 1) for place in missing)} from 1 to 5, then keep the judgement"
        raise UserError(message)
    wrong = [quality for place, quality in judgement.quality.items() if place in places and quality not in SCALE]
    if wrong:
        message = f"a quality must be 1 to 5, got {wrong[0]}"
        raise UserError(message)
    if judgement.best is not None and judgement.best not in places:
        message = f"answer {judgement.best + 1} is not there to be chosen; choose another, or about the same"
        raise UserError(message)


def _campaign_of(owner: User) -> Campaign:
    """Return this researcher's playground campaign, made at the first judgement."""
    User.objects.select_for_update(no_key=True).get(pk=owner.pk)
    found = Campaign.objects.filter(owner=owner, kind=Campaign.Kind.PLAYGROUND).first()
    if found is not None:
        return found
    taken = Campaign.objects.filter(owner=owner, name=_NAME).exists()
    return Campaign.objects.create(
        owner=owner,
        kind=Campaign.Kind.PLAYGROUND,
        status=Campaign.Status.CLOSED,
        name=f"{_NAME} of {owner.username}"[:100] if taken else _NAME,
        title=_NAME,
        task="dialogue",
        quality_question="How good is this answer?",
        choice_question="Which answer is best?",
        anchors={"1": "Poor", "5": "Excellent"},
        replicas=1,
        num_items=0,
        opened=Now(),
        closed=Now(),
    )


def _add_item(campaign: Campaign, question: Question, given: Sequence[Generation]) -> Item:
    last = campaign.items.aggregate(last=Max("index"))["last"]
    item = Item.objects.create(
        campaign=campaign,
        index=0 if last is None else last + 1,
        prompt=question.prompt,
        messages=question.messages,
        prompt_id=question.prompt_id,
        root=question.root,
        base_order=_order(given),
    )
    Response.objects.bulk_create(
        Response(
            item=item,
            index=index,
            system=_system(campaign, generation),
            text=generation.text,
            truncated=generation.truncated,
        )
        for index, generation in enumerate(given)
    )
    return item


def _order(given: Sequence[Generation]) -> str:
    """Return the response indices from left to right, e.g. "201"."""
    return "".join(str(index) for index in sorted(range(len(given)), key=lambda index: given[index].place))


def _system(campaign: Campaign, generation: Generation) -> System:
    """Return the row of the model that answered; its digest is what makes it the same model again."""
    found = campaign.systems.filter(label=generation.label, upload_digest=generation.digest).first()
    if found is not None:
        return found
    last = campaign.systems.aggregate(last=Max("index"))["last"]
    labelled = campaign.systems.filter(label=generation.label).exists()
    return System.objects.create(
        campaign=campaign,
        index=0 if last is None else last + 1,
        label=f"{generation.label[:70]} {generation.digest[:8]}" if labelled else generation.label,
        kind=generation.kind,
        run=generation.run,
        stage=generation.stage,
        upload_digest=generation.digest,
    )


def _add_answer(
    campaign: Campaign, item: Item, question: Question, given: Sequence[Generation], judgement: Judgement
) -> Answer:
    rater, _ = Rater.objects.get_or_create(user=question.owner, defaults={"origin": Rater.Origin.ACCOUNT})
    Participation.objects.get_or_create(
        campaign=campaign, rater=rater, defaults={"qualification": Participation.Qualification.PASSED}
    )
    slot = Slot.objects.create(
        campaign=campaign,
        item=item,
        number=0,
        status=Slot.Status.SUBMITTED,
        rater=rater,
        token=uuid4(),
        order=_order(given),
        claimed=question.created,
        shown=question.created,
        lease_expires=Now(),
    )
    quality = [judgement.quality[generation.place] for generation in given]
    places = [generation.place for generation in given]
    choice = None if judgement.best is None else places.index(judgement.best)
    answer = Answer.objects.create(
        campaign=campaign,
        item=item,
        slot=slot,
        rater=rater,
        order=slot.order,
        quality_0=quality[0],
        quality_1=quality[1],
        quality_2=quality[2] if len(quality) > FEWEST else None,
        choice=choice,
        same=choice is None,
        contradicts=choice is not None and quality[choice] < max(quality),
        submitted=Now(),
    )
    answer.refresh_from_db()
    elapsed = (answer.submitted - question.created).total_seconds()
    Answer.objects.filter(pk=answer.pk).update(elapsed_ms=max(0, int(elapsed * 1000)))
    return answer
