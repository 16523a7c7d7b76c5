"""Nothing that a rater receives tells which system wrote what, or what is compared at all.

Every address of the rating pages is walked by three kinds of raters, with right and wrong values, and every byte of
every answer (status, headers, cookies, bodies, redirects, files) is searched for every identity in many spellings.
"""

import base64
import codecs
import contextlib
import hashlib
import html
import json
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from django.contrib.staticfiles import finders
from django.db import connection
from django.http import HttpResponse
from django.test import Client
from django.urls import Resolver404, get_resolver, resolve
from django.utils import timezone

from tests.webapp.graphs import DIAMOND, run_of
from tests.webapp.human_eval.made_campaigns import known_item, made_campaign, made_rater
from webapp.accounts.models import Role, User
from webapp.human_eval import urls_rating
from webapp.human_eval.models import (
    Campaign,
    Invitation,
    Item,
    PanelLink,
    Participation,
    Rater,
    Response,
    Slot,
    System,
)
from webapp.human_eval.rater_access import token_hash
from webapp.runs.models import Dataset, Run

pytestmark = pytest.mark.django_db

FIRST_KEYS = {  # tables whose keys must not go out, and where they begin: numbers that come up by no accident
    "human_eval_system": 424_242_001,
    "human_eval_item": 535_353_001,
    "human_eval_response": 646_464_001,
    "human_eval_slot": 757_575_001,
    "human_eval_rater": 868_686_001,
    "human_eval_participation": 979_797_001,
    "human_eval_answer": 313_131_001,
    "runs_run": 292_929_001,
    "runs_dataset": 373_737_001,
    "accounts_user": 484_848_001,
}
RIGHT = {"q1": "5", "q2": "3", "q3": "1", "best": "1"}


def _restart_keys() -> None:
    with connection.cursor() as cursor:  # ALTER is undone with the test's transaction; setval would not be
        for table, first in FIRST_KEYS.items():
            cursor.execute("SELECT pg_get_serial_sequence(%s, 'id')", [table])
            cursor.execute(f"ALTER SEQUENCE {cursor.fetchone()[0]} RESTART WITH {first}")


@pytest.fixture
def campaign(own_folder: None, db: None) -> Campaign:
    """A campaign whose every part has a name or number of its own."""
    _restart_keys()
    owner = User.objects.create_user("owner-quokka", role=Role.RESEARCHER, email="quokka@lab.example")
    run = run_of(DIAMOND, owner)
    Run.objects.filter(pk=run.pk).update(name="run-axolotl")
    dataset = Dataset.objects.create(
        owner=owner, name="dataset-narwhal", kind="prompts", task="summarization", digest="d" * 63 + "7"
    )
    campaign = made_campaign(
        owner, items=8, name="campaign-pangolin", dataset=dataset, split="validation", check_share=0.1,
        qualification_pass=0, seed=616_161_001, consent="We keep your answers.",
    )  # fmt: skip
    for kind in ("qualification", "check"):
        known_item(campaign, kind, feedback="Well read.")
    for system, label in zip(campaign.systems.all(), ("policy-okapi", "sft-tapir", "target-kiwi"), strict=True):
        System.objects.filter(pk=system.pk).update(
            label=label,
            run=run,
            upload_name=f"file-{label}.jsonl",
            upload_digest=hashlib.sha256(label.encode()).hexdigest(),
        )
    for item in Item.objects.all():
        Item.objects.filter(pk=item.pk).update(
            prompt_id=hashlib.sha256(str(item.pk).encode()).hexdigest()[:16], root=f"root-wombat-{item.pk}"
        )
    Response.objects.update(text="A response.", named="name-dugong", truncated=True)
    campaign.refresh_from_db()
    return campaign


def identities(campaign: Campaign) -> set[str]:
    """Return everything that would tell: names, files, digests, and keys of rows."""
    found = {campaign.name, campaign.owner.username, campaign.owner.email, str(campaign.seed), "name-dugong"}
    for system in campaign.systems.all():
        found |= {system.label, system.upload_name, system.upload_digest, f"system {system.index}"}
    found |= {campaign.dataset.name, campaign.dataset.digest, "run-axolotl"} if campaign.dataset else set()
    found |= set(Item.objects.values_list("prompt_id", flat=True)) | set(Item.objects.values_list("root", flat=True))
    found |= {"root-wombat", "quokka", "axolotl", "narwhal", "pangolin"}
    found |= {"expected_choice", "upload_digest", "qualification_pass", "check_share"}
    for rows in (System, Item, Response, Slot, Rater, Participation, Run, Dataset, User):
        found |= {str(key) for key in rows._default_manager.values_list("pk", flat=True)}
    return {text for text in found if len(text) > 5}  # shorter ones come up in random tokens


def spellings(text: str) -> Iterator[str]:
    """Yield an identity in every way it could hide in an answer."""
    raw = text.encode()
    yield from (text, html.escape(text), quote(text, safe=""), quote(quote(text, safe=""), safe=""))
    yield from (json.dumps(text)[1:-1], text[::-1], codecs.encode(text, "rot13"), raw.hex(), raw.decode("latin-1"))
    yield "".join(f"&#{ord(letter)};" for letter in text)
    yield "".join(f"&#x{ord(letter):x};" for letter in text)
    yield "".join(f"\\u{ord(letter):04x}" for letter in text)
    yield from (hashlib.new(name, raw, usedforsecurity=False).hexdigest() for name in ("md5", "sha1", "sha256"))
    for shift in range(3):  # a text inside of something that is encoded begins at one of three places
        coded = base64.b64encode(b"\0" * shift + raw)
        core = coded[4 if shift else 0 : -4 if len(coded) > 8 else None].decode().rstrip("=")
        yield from (core, core.replace("+", "-").replace("/", "_")) if len(core) > 5 else ()
    if text.isdigit():
        yield from (f"{int(text):x}", base64.b32encode(raw).decode().rstrip("="))


def received(response: HttpResponse) -> str:
    """Return everything of an answer as one text: status, reason, headers, cookies, body."""
    body = b"".join(response) if response.streaming else response.content  # type: ignore[attr-defined]
    cookies = "\n".join(str(morsel) for morsel in response.cookies.values())
    return f"{response.status_code} {response.reason_phrase}\n{response.items()}\n{cookies}\n{body.decode()}"


class Walk:
    """One rater who opens and sends everything there is, and keeps what came back."""

    def __init__(self, client: Client, campaign: Campaign) -> None:
        self.client, self.campaign = client, campaign
        self.answers: dict[str, str] = {}
        self.seen: set[str] = set()
        client.raise_request_exception = False

    def ask(self, method: str, path: str, data: Any = None, **extra: Any) -> HttpResponse:
        response = getattr(self.client, method)(path, data, **extra)
        with contextlib.suppress(Resolver404):
            self.seen.add(str(resolve(path).url_name))
        name = f"{len(self.answers)} {method} {path} {data} {response.status_code}"
        self.answers[name] = received(response)
        if 300 <= response.status_code < 400:
            self.ask("get", response["Location"])
        return response

    def token(self) -> str:
        shown = self.ask("get", self.url()).content.decode()
        return shown.partition('name="token" value="')[2].partition('"')[0]

    def url(self, page: str = "") -> str:
        return f"/rate/{self.campaign.pk}/{page}"

    def everything(self) -> None:
        """Walk from the first look to the last end page, with everything that can go wrong on the way."""
        self.ask("get", "/rate/")
        self.ask("get", self.url())
        self.ask("post", self.url("join/"), {"consent_version": "9"})
        self.ask("post", self.url("join/"), {"consent_version": "1"})
        self.go_wrong()
        for number in range(12):
            token = self.token()
            if not token:
                break
            self.one_task(token, number)
        self.ask("get", self.url("waiting/"))
        self.ends()

    def one_task(self, token: str, number: int) -> None:
        sent = RIGHT | {"token": token, "client_id": str(uuid4())}
        script = {"headers": {"Accept": "application/json"}} if number % 2 else {}
        self.ask("post", self.url("heartbeat/"), {"token": token, "active_ms": "50", "drafted": "1", "q1": "2"})
        self.ask("post", self.url("ahead/"), {"token": token})
        self.ask("post", self.url("flag/"), {"token": token, "flag_reason": "names_system", "flag_response": "2"})
        self.ask("post", self.url("flag/"), {"token": token})
        if number == 3:
            self.ask("post", self.url("skip/"), {"token": token, "skip_reason": "nonsense"})
            self.ask("post", self.url("skip/"), {"token": token, "skip_reason": "unclear"})
            return
        self.ask("post", self.url(), sent | {"q1": "", "best": "7"}, **script)
        self.ask("post", self.url(), sent | {"q1": "1", "q2": "5"}, **script)  # contradicts
        self.ask("post", self.url(), sent, **script)
        self.ask("post", self.url(), sent, **script)
        self.ask("get", self.url("feedback/"))
        last = self.ask("get", self.url("last/")).content.decode()
        token = last.partition('name="token" value="')[2].partition('"')[0]
        self.ask("post", self.url("last/"), sent | {"token": token, "best": "0"})

    def go_wrong(self) -> None:
        """Send what no page would, to every address, by every method."""
        pages = ["", "join/", "ahead/", "heartbeat/", "skip/", "flag/", "last/", "feedback/", "waiting/"]
        for method in ("get", "head", "post", "put", "delete", "patch", "options"):
            for page in pages:
                self.ask(method, self.url(page))
                self.ask(method, f"/rate/{self.campaign.pk + 1}/{page}")
        for page in ("ahead/", "heartbeat/", "skip/", "flag/", ""):
            self.ask("post", self.url(page), {"token": str(uuid4()), "q1": "x", "skip_reason": "other"} | RIGHT)
            self.ask("post", self.url(page), {"token": "' OR 1=1", "client_id": "\x00"})
        for path in ("/rate/x/", "/rate/999999999999999999999/", "/rate/-1/", "/rate/invitation/x/", "/rate/panel/x/"):
            self.ask("get", path)
            self.ask("post", path)
        for path in ("/", "/campaigns/", f"/campaigns/{self.campaign.pk}/", "/runs/", "/datasets/", "/admin/"):
            self.ask("get", path)

    def ends(self) -> None:
        for status in ("paused", "closed", "open"):
            Campaign.objects.filter(pk=self.campaign.pk).update(status=status)
            self.ask("get", self.url())
        Slot.objects.filter(status="open").delete()
        self.ask("get", self.url())
        self.ask("get", self.url("waiting/"))


def by_account(campaign: Campaign) -> Walk:
    client = Client()
    client.force_login(User.objects.create_user("somebody", role=Role.RATER))
    return Walk(client, campaign)


def by_invitation(campaign: Campaign) -> Walk:
    expires = timezone.now() + timedelta(days=1)
    Invitation.objects.create(
        campaign=campaign, token_hash=token_hash("abc"), note="note-numbat", created_by=campaign.owner, expires=expires
    )
    walk = Walk(Client(), campaign)
    walk.ask("get", "/rate/invitation/abc/")
    walk.ask("post", "/rate/invitation/abc/")
    return walk


def by_panel(campaign: Campaign) -> Walk:
    PanelLink.objects.create(campaign=campaign, token_hash=token_hash("abc"), completion_code="DONE1")
    walk = Walk(Client(), campaign)
    for data in ({}, {"PROLIFIC_PID": "{{x}}"}, {"PROLIFIC_PID": "p1", "SESSION_ID": "s"}):
        walk.ask("get", "/rate/panel/abc/", data)
        walk.ask("post", "/rate/panel/abc/", data)
    return walk


def leaks(answers: dict[str, str], wanted: set[str]) -> list[str]:
    """Return where which identity stands, in whatever spelling."""
    lines = {line.lower(): name for name, text in answers.items() for line in text.splitlines()}  # pages repeat a lot
    everything = "\n".join(lines)
    needles = {needle.lower(): text for text in wanted for needle in spellings(text) if len(needle) > 3}
    return [
        f"{name}: {text} as {needle}"
        for needle, text in needles.items()
        if needle in everything
        for line, name in lines.items()
        if needle in line
    ]


@pytest.mark.parametrize("enter", [by_account, by_invitation, by_panel])
def test_no_answer_of_any_rating_page_names_a_system(campaign: Campaign, enter: Any) -> None:
    walk = enter(campaign)
    walk.everything()
    assert len(walk.answers) > 150
    statuses = {name.rsplit(" ", 1)[1] for name in walk.answers}
    assert {"200", "204", "302", "404", "405", "410", "422"} <= statuses
    links = {"rate_invitation", "rate_panel"}
    assert {str(pattern.name) for pattern in urls_rating.urlpatterns} - links <= walk.seen  # type: ignore[union-attr]
    assert Rater.objects.get().answers.count() > 6
    assert leaks(walk.answers, identities(campaign) | {"note-numbat"}) == []


def test_an_error_of_the_server_says_nothing_either(campaign: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    walk = by_account(campaign)
    walk.ask("post", walk.url("join/"), {"consent_version": "1"})

    def fail(*_: object, **__: object) -> None:
        message = f"policy-okapi of {campaign.pk} in file-policy-okapi.jsonl"
        raise RuntimeError(message)

    monkeypatch.setattr("webapp.human_eval.views_rating.claim", fail)
    monkeypatch.setattr("webapp.human_eval.views_rating_actions.heartbeat", fail)
    assert walk.ask("get", walk.url()).status_code == 500
    assert walk.ask("post", walk.url("heartbeat/"), {"token": str(uuid4())}).status_code == 500
    strict = Walk(Client(enforce_csrf_checks=True), campaign)
    strict.ask("post", walk.url())
    assert leaks(walk.answers | strict.answers, identities(campaign)) == []


def test_the_files_of_the_pages_know_no_system(campaign: Campaign) -> None:
    files = {}
    for name in ("rating.js", "rating.css", "studio.js", "studio.css", "icon.svg", "django_htmx/htmx.min.js"):
        path = finders.find(name)
        assert path is not None or name.startswith("django_htmx"), name
        if path:
            with open(path, encoding="utf-8") as file:  # noqa: PTH123 - finders give plain paths
                files[name] = file.read()
    assert leaks(files, identities(campaign)) == []


def test_the_search_finds_what_it_looks_for() -> None:
    coded = base64.b64encode(b'{"x": "policy-okapi", "y": 424242001}').decode()
    for text in (
        f"<b>{coded}</b>",
        quote("policy-okapi/"),
        "POLICY-OKAPI",
        b"policy-okapi".hex(),
        f"{424242001:x}",
        "ipako-ycilop",
    ):
        assert leaks({"here": text}, {"policy-okapi", "424242001"}), text
    assert leaks({"here": "Response 1 is the best"}, {"policy-okapi", "424242001"}) == []


def test_pages_of_one_task_differ_in_nothing_but_the_places_of_the_texts(campaign: Campaign) -> None:
    """Two raters see the same task with its responses in another order: the rest is the same, byte by byte."""
    Item.objects.exclude(index=0).delete()
    for index, letter in enumerate("αβγ"):
        Response.objects.filter(index=index).update(text=f"Text {letter}.")
    shown = []
    for number in range(3):
        user = User.objects.create_user(f"person{number}", role=Role.RATER)
        made_rater(campaign, user=user)
        client = Client()
        client.force_login(user)
        page = client.get(f"/rate/{campaign.pk}/").content.decode()
        order = re.findall(r"laid-out\" dir=\"auto\"><p>Text (.)\.", page)
        page = re.sub(
            r"Text [αβγ]\.|[0-9a-f]{8}-[0-9a-f-]{27}|value=\"\w{64}\"|data-who=\"[\w-]+\"|data-lease=\"\d+\"|person\d",
            "",
            page,
        )
        shown.append((order, page))
    assert len({tuple(order) for order, _ in shown}) == 3
    assert len({page for _, page in shown}) == 1


def test_every_rating_address_is_one_of_those_walked() -> None:
    mounted = {str(pattern.name) for pattern in urls_rating.urlpatterns}  # type: ignore[union-attr]
    known = {str(name) for name in get_resolver().reverse_dict if isinstance(name, str) and name.startswith("rate")}
    assert known == mounted
