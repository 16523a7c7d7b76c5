"""The polled parts of runs: made once for all who look, never shown to who may not see them."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from tests.webapp.graphs import DIAMOND, run_of
from tests.webapp.made_runs import signed_in
from webapp.accounts.models import Role, User
from webapp.bridge import Bridge, Message, Receive, Scope, Send
from webapp.runs import shared_polls
from webapp.runs.models import LogLine, Run
from webapp.runs.shared_polls import SharedPolls
from webapp.wsgi import application

pytestmark = pytest.mark.django_db(transaction=True)


class Server:
    """A process as its clients see it. `reached` are the requests that Django answered."""

    def __init__(self) -> None:
        self.reached: list[str] = []
        self._bridge = Bridge(_closing, threads=2)
        self.polls = SharedPolls(self._counted)

    async def _counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.reached.append(scope["path"])
        await self._bridge(scope, receive, send)

    def ask(
        self, path: str, *clients: Client, method: str = "GET", **headers: str
    ) -> list[tuple[int, dict[str, str], str]]:
        """Let clients ask for the same at once; return status, headers and body of each."""

        async def together() -> list[Any]:
            return await asyncio.gather(*(self._one(path, client, method, headers) for client in clients))

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, together()).result()

    async def _one(
        self, path: str, client: Client, method: str, headers: dict[str, str]
    ) -> tuple[int, dict[str, str], str]:
        path, _, query = path.partition("?")
        cookies = "; ".join(f"{name}={morsel.value}" for name, morsel in client.cookies.items())
        sent = {"host": "localhost", "cookie": f"theme=dark; {cookies}", **headers}
        scope = {
            "type": "http", "method": method, "path": path, "query_string": query.encode(), "http_version": "1.1",
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in sent.items()],
        }  # fmt: skip
        messages: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            messages.append(message)

        await self.polls(scope, receive, send)
        found = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
        return messages[0]["status"], found, b"".join(message.get("body", b"") for message in messages[1:]).decode()


def _closing(environ: dict[str, Any], start_response: Any) -> Any:
    """Answer with Django, and leave no connection of its thread that would keep the database from being emptied."""
    try:
        return application(environ, start_response)
    finally:
        connection.close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    looked_up = shared_polls._looked_up

    def and_closed(session: str, run: int) -> Any:
        try:
            return looked_up(session, run)
        finally:
            connection.close()

    monkeypatch.setattr(shared_polls, "_looked_up", and_closed)
    return Server()


@pytest.fixture
def run(researcher: User) -> Run:
    run = run_of(DIAMOND, researcher)
    Run.objects.filter(pk=run.pk).update(shared=True)
    return run


def colleague(number: int) -> Client:
    return signed_in(User.objects.create_user(f"colleague {number}", role=Role.RESEARCHER))


def test_many_who_ask_at_once_get_one_answer_that_was_made_once(server: Server, run: Run) -> None:
    found = server.ask(f"/runs/{run.pk}/live/?was=live", *(colleague(number) for number in range(5)))
    assert {status for status, _, _ in found} == {200}
    assert len({body for _, _, body in found}) == 1
    assert len(server.reached) == 1
    again = server.ask(f"/runs/{run.pk}/live/?was=live", colleague(9), if_none_match=found[0][1]["etag"])
    assert (again[0][0], again[0][2], len(server.reached)) == (304, "", 1)


def test_what_changed_is_seen_after_the_time_that_a_snapshot_is_fresh(
    server: Server, run: Run, researcher: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_polls, "FRESH_SECONDS", 0.0)
    path, viewer = f"/runs/{run.pk}/live/", signed_in(researcher)
    server.ask(path, viewer)
    LogLine.objects.create(stage=run.stages.first(), message="a line that is new")
    assert "a line that is new" in server.ask(path, viewer)[0][2]


def test_whoever_may_not_see_a_run_gets_what_django_says(server: Server, run: Run, rater: User, admin: User) -> None:
    Run.objects.filter(pk=run.pk).update(shared=False)
    path = f"/runs/{run.pk}/curves/"
    assert server.ask(path, signed_in(admin))[0][0] == 200
    assert server.ask(path, colleague(1))[0][0] == 404
    assert server.ask(path, signed_in(rater))[0][0] == 403
    assert server.ask(path, Client())[0][0] == 302
    assert server.ask(f"/runs/{run.pk + 1}/curves/", signed_in(admin))[0][0] == 404


def test_nobody_gets_what_only_an_admin_is_shown(server: Server, run: Run, admin: User) -> None:
    stage = run.stages.first()
    assert stage is not None
    stage.status, stage.traceback = "failed", "Traceback of a machine"
    stage.save()
    Run.objects.filter(pk=run.pk).update(status="failed")
    path = f"/runs/{run.pk}/live/"
    assert "Traceback of a machine" in server.ask(path, signed_in(admin))[0][2]
    assert "Traceback of a machine" not in server.ask(path, colleague(1))[0][2]
    texts = {server.ask(path, colleague(number))[0][2] for number in (2, 3)}
    assert len(texts) == 1


def test_permissions_are_asked_for_again_after_the_time_they_are_trusted(
    server: Server, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, viewer = f"/runs/{run.pk}/live/", colleague(1)
    assert server.ask(path, viewer)[0][0] == 200
    Run.objects.filter(pk=run.pk).update(shared=False)  # by another process
    assert server.ask(path, viewer)[0][0] == 200
    monkeypatch.setattr(shared_polls, "TRUSTED_SECONDS", 0.0)
    server.polls._viewers.clear()
    assert server.ask(path, viewer)[0][0] == 404


def test_a_form_that_is_sent_through_this_process_counts_at_once(server: Server, run: Run) -> None:
    path, viewer = f"/runs/{run.pk}/live/", colleague(1)
    assert server.ask(path, viewer)[0][0] == 200
    viewer.session.flush()
    assert server.ask(path, viewer)[0][0] == 200
    server.ask("/rate/1/", viewer, method="POST")  # comes often, and says nothing of runs
    assert server.ask(path, viewer)[0][0] == 200
    server.ask("/sign-out/", viewer, method="POST")
    assert server.ask(path, viewer)[0][0] == 302


def test_addresses_that_are_not_polled_and_hosts_that_are_not_ours_reach_django(
    server: Server, run: Run, researcher: User
) -> None:
    viewer = signed_in(researcher)
    for path in (f"/runs/{run.pk}/", f"/runs/{run.pk}/live/?was=other", "/runs/"):
        assert server.ask(path, viewer)[0][0] == 200
    assert len(server.reached) == 3
    assert server.ask(f"/runs/{run.pk}/live/", viewer, host="evil.example")[0][0] == 400
