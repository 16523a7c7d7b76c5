import asyncio
import datetime as dt
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from rso_core import endpoint as module
from rso_core.answer_cache import Answer
from rso_core.endpoint import Endpoint, Request
from rso_core.endpoint_settings import EndpointSettings, allowed_endpoints, find_endpoint
from rso_core.errors import TransientError, UserError
from tests.rso_core.bad_server import BadServer, Handler, breaks_off, drips, fails, hangs, says, serving

KEY = "RSO_ENDPOINT_KEY_TEST"
SECRET = "sk-very-secret"


@pytest.fixture(autouse=True)
def no_long_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY", 0.001)


def settings(server: BadServer | str, **values: Any) -> EndpointSettings:
    address = server if isinstance(server, str) else server.address
    return EndpointSettings.model_validate(
        {"address": address, "model": "tiny", "private_allowed": True, "timeout_seconds": 5, **values}
    )


def request(text: str = "hello", seed: int = 1, **values: Any) -> Request:
    return Request(({"role": "user", "content": text},), temperature=0.7, max_tokens=16, seed=seed, **values)


def ask(endpoint: Endpoint, *requests: Request) -> list[Answer]:
    return [answer for block in endpoint.ask(requests or (request(),)) for answer in block]


# What is sent, what is understood


def test_it_can_be_asked_where_an_event_loop_runs_as_in_a_notebook() -> None:
    async def cell(server: BadServer) -> list[Answer]:
        return ask(Endpoint(settings(server)))

    with serving(says("yes")) as server, ThreadPoolExecutor(1) as pool:
        assert pool.submit(asyncio.run, cell(server)).result()[0].text == "yes"


def test_a_sample_is_asked_for_with_every_setting_explicit() -> None:
    with serving(says("yes")) as server:
        found = ask(Endpoint(settings(server, sends_top_k=True)), request(top_k=40, top_p=0.9))
    assert found == [Answer("yes", truncated=False, prompt_tokens=7, completion_tokens=3)]
    path, headers, body = server.asked[0]
    assert path == "/v1/chat/completions"
    assert headers["Host"] == server.address.split("/")[2]
    assert body == {
        "model": "tiny", "messages": [{"role": "user", "content": "hello"}], "temperature": 0.7, "max_tokens": 16, "seed": 1,
        "stream": False, "top_k": 40, "top_p": 0.9,
    }  # fmt: skip


def test_what_a_server_does_not_know_is_not_sent() -> None:
    with serving(says("yes", finish="length")) as server:
        (found,) = ask(Endpoint(settings(server, limit_field="max_completion_tokens")), request(top_k=40))
    assert found.truncated
    assert not {"top_k", "top_p", "max_tokens"} & set(server.asked[0][2])
    assert server.asked[0][2]["max_completion_tokens"] == 16


def test_answers_come_in_the_order_of_the_requests_and_no_more_than_allowed_are_under_way() -> None:
    def echo(handler: Handler) -> None:
        time.sleep(0.002 * (handler.body["seed"] % 3))
        says(f"seed {handler.body['seed']}")(handler)

    with serving(echo) as server:
        found = ask(Endpoint(settings(server, concurrency=3)), *(request(seed=i) for i in range(20)))
    assert [answer.text for answer in found] == [f"seed {i}" for i in range(20)]
    assert 1 < server.most_under_way <= 3


def test_the_key_is_read_from_its_variable_and_is_in_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, SECRET)
    with (
        serving(fails(401, f"wrong key {SECRET}".encode())) as server,
        pytest.raises(UserError, match="status 401: its key is missing or wrong") as refusal,
    ):
        ask(Endpoint(settings(server, key_variable=KEY)))
    assert server.asked[0][1]["Authorization"] == f"Bearer {SECRET}"
    assert SECRET not in str(refusal.value)


def test_a_key_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY, raising=False)
    with (
        serving(says("yes")) as server,
        pytest.raises(UserError, match=f"{KEY} of the workers, and there it is not set"),
    ):
        ask(Endpoint(settings(server, key_variable=KEY)))
    assert server.asked == []


def test_another_secret_of_the_machine_cannot_be_named() -> None:
    with pytest.raises(ValueError, match="key_variable"):
        settings("https://api.example.org/v1", key_variable="DATABASE_URL")


# What passes by itself


@pytest.mark.parametrize(
    "trouble",
    [fails(429), fails(500), fails(503), fails(408), fails(200, b"<html>"), fails(200, b"{}"), fails(200, b'{"choices": []}'), breaks_off],
)  # fmt: skip
def test_what_passes_by_itself_is_tried_again(trouble: Any) -> None:
    with serving(trouble, trouble, says("at last")) as server:
        endpoint = Endpoint(settings(server))
        assert ask(endpoint)[0].text == "at last"
    assert (len(server.asked), endpoint.retries) == (3, 2)


def test_tries_are_bounded_and_the_last_trouble_is_told() -> None:
    with serving(fails(503, b"overloaded")) as server, pytest.raises(TransientError, match="in 3 tries; at last: status 503: overloaded"):  # fmt: skip
        ask(Endpoint(settings(server, max_retries=2)))
    assert len(server.asked) == 3


@pytest.mark.parametrize("silence", [hangs, drips])
def test_a_server_that_hangs_or_drips_is_left_after_the_timeout(silence: Any) -> None:
    start = time.monotonic()
    with serving(silence) as server, pytest.raises(TransientError, match=r"no answer within 0\.3 s"):
        ask(Endpoint(settings(server, timeout_seconds=0.3, max_retries=0)))
    assert time.monotonic() - start < 4


@pytest.mark.parametrize(
    "after",
    ["0.4", format_datetime(dt.datetime.now(dt.UTC) + dt.timedelta(days=1)), "soon", "-5", "0"],
    ids=["seconds", "tomorrow", "no time", "negative", "at once"],  # a name with a time in it is not found again
)
def test_the_delay_is_the_one_asked_for_within_bounds(after: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_DELAY", 0.5)
    start = time.monotonic()
    with serving(fails(429, b"", Retry_After=after), says("yes")) as server:
        ask(Endpoint(settings(server)))
    waited = time.monotonic() - start
    least = {"0.4": 0.4, "soon": 0.0, "-5": 0.0, "0": 0.0}.get(after, 0.5)
    assert least <= waited < least + 2


def test_nobody_there_is_a_passing_trouble() -> None:
    with serving(says("yes")) as server:
        address = server.address
    with pytest.raises(TransientError, match="the connection failed"):
        ask(Endpoint(settings(address, max_retries=1)))


# What the user must mend


@pytest.mark.parametrize(
    ("status", "advice"),
    [(400, "limit_field"), (401, "key is missing or wrong"), (403, "may not use this model"), (404, "usually ends with /v1"), (422, "sends_top_k"), (418, "settings")],
)  # fmt: skip
def test_what_the_user_must_mend_is_not_tried_again(status: int, advice: str) -> None:
    with serving(fails(status, b"no")) as server, pytest.raises(UserError, match=f"status {status}: .*{advice}"):
        ask(Endpoint(settings(server)))
    assert len(server.asked) == 1


def test_a_redirect_is_not_followed() -> None:
    with serving(says("stolen")) as elsewhere, serving(fails(307, b"", Location=f"{elsewhere.address}/chat/completions")) as server:  # fmt: skip
        with pytest.raises(UserError, match="redirects are not followed"):
            ask(Endpoint(settings(server)))
        assert elsewhere.asked == []


def test_an_answer_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST_ANSWER", 1000)
    with serving(fails(200, b"x" * 5000)) as server, pytest.raises(UserError, match="is it an OpenAI-compatible API"):
        ask(Endpoint(settings(server)))
    assert len(server.asked) == 1


def test_the_first_error_ends_the_other_requests() -> None:
    start = time.monotonic()
    with serving(fails(404), hangs) as server, pytest.raises(UserError, match="status 404"):
        ask(Endpoint(settings(server, concurrency=4, timeout_seconds=20)), *(request(seed=i) for i in range(8)))
    assert time.monotonic() - start < 10
    assert len(server.asked) <= 8


# Where requests may go


def test_an_endpoint_of_this_machine_is_refused_unless_an_admin_allowed_it() -> None:
    with serving(says("yes")) as server:
        address = server.address.replace("http:", "https:")
        with pytest.raises(UserError, match=r"127\.0\.0\.1 is private or of this machine"):
            ask(Endpoint(settings(address, private_allowed=False)))
    assert server.asked == []


def test_a_name_is_looked_up_and_the_connection_goes_to_what_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up = []

    async def look_up(address: Any) -> list[str]:
        looked_up.append(address.host)
        return ["127.0.0.1"] if len(looked_up) == 1 else ["169.254.169.254"]  # a name that changes its mind

    monkeypatch.setattr(module, "_look_up", look_up)
    with serving(says("yes")) as server:
        port = server.server_address[1]
        endpoint = Endpoint(settings(f"http://judge.example:{port}/v1", concurrency=2))
        assert len(ask(endpoint, *(request(seed=i) for i in range(8)))) == 8
        assert looked_up == ["judge.example"]
        assert {headers["Host"] for _, headers, _ in server.asked} == {f"judge.example:{port}"}
        with pytest.raises(
            UserError, match=r"judge\.example are refused: its address 169\.254\.169\.254 is link-local"
        ):
            ask(endpoint)


def test_proxies_of_the_environment_take_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(says("stolen")) as proxy, serving(says("yes")) as server:
        for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy"):
            monkeypatch.setenv(name, proxy.address.removesuffix("/v1"))
        assert ask(Endpoint(settings(server)))[0].text == "yes"
        assert proxy.asked == []


# Settings


def test_cost_is_per_million_tokens() -> None:
    priced = settings("https://api.example.org/v1", prompt_price=2.0, completion_price=8.0)
    assert priced.cost(500_000, 250_000) == pytest.approx(3.0)


def test_endpoints_are_read_from_the_file_an_admin_names_and_a_wrong_one_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RSO_ENDPOINTS", raising=False)
    assert allowed_endpoints() == {}
    file = tmp_path / "endpoints.yaml"
    monkeypatch.setenv("RSO_ENDPOINTS", str(file))
    file.write_text("judge:\n  address: https://api.example.org/v1\n  model: judge-1\n")
    assert find_endpoint("judge", "judge-1") == allowed_endpoints()["judge"]
    with pytest.raises(UserError, match="no endpoint is called 'other' on this worker; known: judge"):
        find_endpoint("other", "judge-1")
    with pytest.raises(UserError, match="has the model 'judge-1' now, the run was planned with 'judge-0'"):
        find_endpoint("judge", "judge-0")
    file.write_text("judge:\n  address: http://api.example.org/v1\n  model: judge-1\n")
    with pytest.raises(UserError, match=r"endpoints\.yaml \(RSO_ENDPOINTS\) is wrong: .*must begin with https"):
        allowed_endpoints()
    for unreadable in ("judge: [", "- judge"):
        file.write_text(unreadable)
        with pytest.raises(UserError, match="cannot be read as names with settings"):
            allowed_endpoints()
