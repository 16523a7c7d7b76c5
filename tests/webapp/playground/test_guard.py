"""Who reaches Gradio's app, and as what: the guard around an app that says what it got."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.test import Client

from tests.webapp.made_runs import signed_in
from webapp.accounts.models import Role, User
from webapp.playground import guard, people
from webapp.playground.guard import Message, Receive, Scope, Send
from webapp.playground.mount import Playground, nothing_else

pytestmark = pytest.mark.django_db(transaction=True)

OURS = "http://localhost:8000"


async def told(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with who is asking, the headers and the body."""
    body = (await receive()).get("body", b"").decode()
    names = sorted(name.decode() for name, _ in scope["headers"])
    answer = {"user": scope["state"]["playground_user"], "headers": names, "body": body}
    headers = [(b"content-type", b"application/json"), (b"access-control-allow-origin", b"*")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


class Server:
    """One guarded app, as a process has it: what it remembers stays between requests."""

    def __init__(self, app: guard.App = told) -> None:
        self.app = Playground(nothing_else)
        self.app._guard = guard.Guard(app, "/playground")

    def ask(
        self,
        path: str,
        client: Client | None = None,
        *,
        method: str = "GET",
        body: Any = None,
        scope: Any = None,
        **headers: str,
    ) -> tuple[int, dict[str, str], str]:
        path, _, query = path.partition("?")
        sent = {"host": "localhost:8000", **headers}
        if client is not None and "sessionid" in client.cookies:
            sent["cookie"] = f"theme=dark; sessionid={client.cookies['sessionid'].value}"
        if method == "POST":
            sent.setdefault("origin", OURS)
        encoded = [(name.replace("_", "-").encode(), value.encode()) for name, value in sent.items()]
        whole = {
            "type": "http", "method": method, "path": path, "root_path": "", "scheme": "http", "headers": encoded,
            "query_string": query.encode(), **(scope or {}),
        }  # fmt: skip
        messages: list[Message] = []
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()

        async def receive() -> Message:
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: Message) -> None:
            messages.append(message)

        # In a thread of its own: a browser that an earlier test started keeps its loop running in this one.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, self.app(whole, receive, send)).result()
        answer = {name.decode(): value.decode() for name, value in messages[0].get("headers", [])}
        return messages[0].get("status", 0), answer, b"".join(one.get("body", b"") for one in messages[1:]).decode()


@pytest.fixture
def server() -> Server:
    return Server()


def test_visitors_are_sent_to_the_sign_in_page_and_get_nothing_else(server: Server) -> None:
    status, headers, _ = server.ask("/playground/")
    assert (status, headers["location"]) == (302, "/sign-in/?next=/playground/")
    for path in (
        "config",
        "theme.css",
        "assets/x.js",
        "gradio_api/queue/data?session_hash=x",
        "gradio_api/heartbeat/x",
    ):
        assert server.ask(f"/playground/{path}")[0] == 401, path
    assert server.ask("/playground/gradio_api/queue/join", method="POST", body={})[0] == 401
    assert server.ask("/playground/", cookie="sessionid=nonsense")[0] == 302
    assert server.ask("/playground")[1]["location"] == "/playground/"


def test_raters_are_refused_and_researchers_and_admins_let_in(
    server: Server, rater: User, researcher: User, admin: User
) -> None:
    assert server.ask("/playground/", signed_in(rater))[0] == 403
    assert server.ask("/playground/config", signed_in(rater))[0] == 403
    for user in (researcher, admin):
        status, _, body = server.ask("/playground/", signed_in(user))
        assert (status, json.loads(body)["user"]) == (200, user.username)


def test_who_signs_out_or_becomes_a_rater_is_out_after_ten_seconds_at_most(
    server: Server, researcher: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert people.CACHE_SECONDS <= 10
    monkeypatch.setattr(people, "CACHE_SECONDS", 0.0)
    client, other = signed_in(researcher), signed_in(researcher)
    assert server.ask("/playground/", client)[0] == 200
    cookie = client.cookies["sessionid"].value
    client.logout()
    assert server.ask("/playground/config", cookie=f"sessionid={cookie}")[0] == 401
    User.objects.filter(pk=researcher.pk).update(role=Role.RATER)
    assert server.ask("/playground/config", other)[0] == 403
    User.objects.filter(pk=researcher.pk).update(is_active=False)
    assert server.ask("/playground/config", other)[0] == 401


def test_who_is_signed_in_is_asked_once_in_ten_seconds(
    server: Server, researcher: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = signed_in(researcher)
    assert server.ask("/playground/", client)[0] == 200
    User.objects.filter(pk=researcher.pk).update(is_active=False)
    assert server.ask("/playground/", client)[0] == 200
    now = people.time.monotonic()
    monkeypatch.setattr(people.time, "monotonic", lambda: now + people.CACHE_SECONDS + 1)
    assert server.ask("/playground/config", client)[0] == 401


def test_an_answer_that_goes_on_ends_when_its_reader_has_signed_out(
    researcher: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = []

    async def endless(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(5):
            sent.append(number)
            await send({"type": "http.response.body", "body": b"alive ", "more_body": True})
            monkeypatch.setattr(people, "CACHE_SECONDS", 0.0)
            monkeypatch.setattr(guard, "CACHE_SECONDS", 0.0)
            await asyncio.to_thread(leave)

    def leave() -> None:
        people.in_database(User.objects.filter(pk=researcher.pk).update)(is_active=False)

    monkeypatch.setattr(people, "CACHE_SECONDS", 0.0)
    server, client = Server(endless), signed_in(researcher)
    assert server.ask("/playground/gradio_api/heartbeat/x", client)[2] == "alive "
    assert sent == [0, 1]


def test_what_another_site_sends_is_refused(server: Server, researcher: User) -> None:
    client = signed_in(researcher)
    run = "/playground/gradio_api/run/predict"
    evil = (
        "https://evil.example",
        "http://localhost:9000",
        "https://localhost:8000",
        "null",
        "",
        f"{OURS}.evil.example",
    )
    assert {
        origin: server.ask(run, client, method="POST", body={}, origin=origin)[0] for origin in evil
    } == dict.fromkeys(evil, 403)


def test_a_trusted_origin_and_our_own_are_let_through(server: Server, researcher: User, settings: Any) -> None:
    settings.CSRF_TRUSTED_ORIGINS = ["https://rso.example.org"]
    client = signed_in(researcher)
    for origin in (OURS, "https://rso.example.org"):
        sent = {"data": [1], "session_hash": "mine"}
        status, _, body = server.ask(
            "/playground/gradio_api/run/predict", client, method="POST", body=sent, origin=origin
        )
        assert (status, json.loads(json.loads(body)["body"])) == (200, sent)


def test_hosts_that_are_not_ours_and_words_about_the_host_are_not_believed(server: Server, researcher: User) -> None:
    client = signed_in(researcher)
    assert server.ask("/playground/", client, host="evil.example")[0] == 400
    status, _, body = server.ask(
        "/playground/",
        client,
        x_forwarded_host="evil.example",
        x_forwarded_proto="https",
        x_gradio_server="http://evil.example",
    )
    assert status == 200
    assert json.loads(body)["headers"] == ["cookie", "host"]


def test_every_answer_has_headers_of_its_own_and_lets_no_other_site_read_it(server: Server, researcher: User) -> None:
    for client in (None, signed_in(researcher)):
        _, headers, _ = server.ask("/playground/", client)
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe-eval" not in policy
        assert "http" not in policy
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers


def test_routes_that_the_page_does_not_need_are_not_there(server: Server, researcher: User) -> None:
    client = signed_in(researcher)
    paths = (
        "upload", "file=/etc/passwd", "file/x", "proxy=http://x.example/", "call/predict", "stream/x", "openapi.json",
        "vibe-code", "run/../upload", "runs", "../login", "../monitoring", "deep_link",
    )  # fmt: skip
    for path in paths:
        for method in ("GET", "POST"):
            status, _, _ = server.ask(f"/playground/gradio_api/{path}", client, method=method, body={})
            assert status == 404, path


def test_a_session_of_gradio_belongs_to_whoever_used_it_first(server: Server, researcher: User, admin: User) -> None:
    mine, theirs = signed_in(researcher), signed_in(admin)
    join = "/playground/gradio_api/queue/join"
    assert server.ask(join, mine, method="POST", body={"session_hash": "abc", "data": []})[0] == 200
    for path in ("gradio_api/queue/data?session_hash=abc", "gradio_api/heartbeat/abc"):
        assert server.ask(f"/playground/{path}", mine)[0] == 200
        assert server.ask(f"/playground/{path}", theirs)[0] == 403
    for path in ("gradio_api/queue/join", "gradio_api/cancel", "gradio_api/reset", "gradio_api/run/predict"):
        sent = {"session_hash": "abc", "event_id": "1"}
        assert server.ask(f"/playground/{path}", theirs, method="POST", body=sent)[0] == 403
    assert server.ask(join, theirs, method="POST", body={"session_hash": "xyz"})[0] == 200


def test_bodies_that_cannot_be_read_are_refused(server: Server, researcher: User) -> None:
    client = signed_in(researcher)
    bodies = ((b"{", 400), (b"[1]", 400), (b'{"session_hash": 3}', 400), (b"x" * ((1 << 20) + 1), 413), (b"", 200))
    for body, status in bodies:
        answer = server.ask("/playground/gradio_api/run/predict", client, method="POST", body=body)
        assert answer[0] == status, body[:20]


def test_a_prefix_of_the_server_changes_nothing(server: Server, researcher: User) -> None:
    below = {"root_path": "/app"}
    assert server.ask("/app/playground/theme.css", scope=below)[0] == 401
    assert server.ask("/app/playground/theme.css", signed_in(researcher), scope=below)[0] == 200
    assert server.ask("/app/playground/", scope=below)[1]["location"] == "/app/sign-in/?next=/app/playground/"


def test_websockets_and_other_addresses_are_not_served(server: Server, researcher: User) -> None:
    assert server.ask("/playground/gradio_api/queue/join", signed_in(researcher), scope={"type": "websocket"})[0] == 0
    assert server.ask("/elsewhere/", signed_in(researcher))[0] == 404
