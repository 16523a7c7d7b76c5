"""Ask an OpenAI-compatible endpoint for chat completions: one request a sample, bounded in every way.

A request is tried again, with growing delays, only after what passes by itself: 429, 5xx, a broken connection, a
timeout, an answer that is not JSON. What the user must mend (401, 404, 400, a redirect) ends the work at once. Answers
larger than `LARGEST_ANSWER` bytes are refused. The key is read from the environment when a request is made; it is in no
message, log line or artifact.

One request a sample, not one with `n` samples: every server knows it (transformers serve has no `n`), each sample has
a seed of its own, and a failed one is asked again alone. Servers with a prefix cache read the prompt once anyway.
"""

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from json import JSONDecodeError, loads
from typing import Any

import httpx2

from rso_core.answer_cache import Answer
from rso_core.endpoint_address import Address, IpAddress, choose_ip, parse_address
from rso_core.endpoint_settings import EndpointSettings
from rso_core.errors import TransientError, UserError
from rso_core.vocabulary import Message

LARGEST_ANSWER = 4 << 20  # bytes
LONGEST_DELAY = 60.0  # seconds; a server that asks for more is busy beyond patience
FIRST_DELAY = 0.5
_RETRIED = frozenset({408, 409, 425, 429})
_SHOWN = 300  # characters of a server's complaint


@dataclass(frozen=True)
class Request:
    """One sample to ask for. `top_k` 0 and `top_p` 1 are not sent: they mean "all", which is every server's default."""

    messages: tuple[Message, ...]
    temperature: float
    max_tokens: int
    seed: int
    top_k: int = 0
    top_p: float = 1.0


class Endpoint:
    """An endpoint that can be asked. Raises UserError and TransientError from `ask`, as the module says."""

    def __init__(self, settings: EndpointSettings) -> None:
        self.settings = settings
        self.retries = 0  # so far, for people

    def ask(self, requests: Sequence[Request]) -> Iterator[list[Answer]]:
        """Yield the answers in order, in blocks as large as what is under way at once."""
        block = self.settings.concurrency * 4
        for start in range(0, len(requests), block):
            with ThreadPoolExecutor(1) as pool:  # a notebook has an event loop of its own in this thread
                answers = pool.submit(asyncio.run, self._ask_block(requests[start : start + block])).result()
            yield answers

    async def _ask_block(self, requests: Sequence[Request]) -> list[Answer]:
        slots = asyncio.Semaphore(self.settings.concurrency)
        async with self._opened() as asking:

            async def one(request: Request) -> Answer:
                async with slots:
                    return await asking.until_answered(request)

            tasks = [asyncio.ensure_future(one(request)) for request in requests]
            try:
                return list(await asyncio.gather(*tasks))
            finally:
                for task in tasks:
                    task.cancel()  # the first error ends the others
                await asyncio.gather(*tasks, return_exceptions=True)

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator["_Asking"]:
        address = parse_address(self.settings.address, private_allowed=self.settings.private_allowed)
        # trust_env would let a proxy of the environment, or a .netrc, take part.
        async with httpx2.AsyncClient(
            follow_redirects=False, trust_env=False, timeout=self.settings.timeout_seconds
        ) as client:
            yield _Asking(self, client, address)


def key_of(settings: EndpointSettings) -> str:
    """Return the key, empty when the endpoint needs none. Raises UserError when its variable is not set here."""
    if not settings.key_variable:
        return ""
    key = os.environ.get(settings.key_variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        message = (
            f"the endpoint's key is to be in the environment variable {settings.key_variable} of the workers, and there it is "
            f"{'not printable ASCII' if key else 'not set'}; set it where workers are started, then start them again"
        )
        raise UserError(message)
    return key


class _Retry(TransientError):  # noqa: N818 - what to do, not a mistake
    """A try failed in a way that passes by itself; `after` is the delay the server asks for."""

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class _Asking:
    """One block of requests over one set of connections, to the address that was looked up for it."""

    def __init__(self, endpoint: Endpoint, client: httpx2.AsyncClient, address: Address) -> None:
        self._endpoint, self._client, self._address = endpoint, client, address
        self._settings = endpoint.settings
        self._key = key_of(self._settings)
        self._ip: IpAddress | None = None
        self._looking = asyncio.Lock()
        self._jitter = random.Random(0)  # noqa: S311 - spreads retries, decides nothing

    async def until_answered(self, request: Request) -> Answer:
        for tried in range(self._settings.max_retries + 1):
            try:
                return await self._try(request)
            except _Retry as error:
                if tried == self._settings.max_retries:
                    message = (
                        f"the endpoint {self._address.netloc} gave no answer in {tried + 1} tries; at last: {error}"
                    )
                    raise TransientError(message) from error
                self._endpoint.retries += 1
                await asyncio.sleep(self._delay(tried, error.after))
        message = "`max_retries` must not be negative"
        raise ValueError(message)

    def _delay(self, tried: int, asked_for: float | None) -> float:
        if asked_for is not None:
            return min(max(asked_for, 0.0), LONGEST_DELAY)
        delay: float = FIRST_DELAY * 2**tried * (1 + self._jitter.random())
        return min(delay, LONGEST_DELAY)

    async def _try(self, request: Request) -> Answer:
        try:
            # The client's own timeouts are for each read: a server that drips would never end.
            async with asyncio.timeout(self._settings.timeout_seconds):
                status, headers, content = await self._post(_body(self._settings, request))
        except (TimeoutError, httpx2.TimeoutException) as error:
            message = f"no answer within {self._settings.timeout_seconds:g} s"
            raise _Retry(message) from error
        except httpx2.TransportError as error:
            message = self._clean(f"the connection failed: {type(error).__name__} {error}".strip())
            raise _Retry(message) from error
        self._refuse_failure(status, headers, content)
        return _answer(content)

    async def _post(self, body: Mapping[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        url = self._address.at(await self._pinned(), "/chat/completions")
        # Uncompressed: a small answer could otherwise unfold into a large one.
        headers = {"Host": self._address.netloc, "Accept": "application/json", "Accept-Encoding": "identity"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        names = {"sni_hostname": self._address.host}  # what the certificate must be of
        async with self._client.stream("POST", url, json=body, headers=headers, extensions=names) as response:
            content = bytearray()
            async for part in response.aiter_raw():
                content += part
                if len(content) > LARGEST_ANSWER:
                    message = f"the endpoint {self._address.netloc} sent more than {LARGEST_ANSWER >> 20} MB for one answer; is it an OpenAI-compatible API?"
                    raise UserError(message)
            return response.status_code, response.headers, bytes(content)

    async def _pinned(self) -> IpAddress:
        """Return the address of this block's connections, looked up and checked once."""
        async with self._looking:
            if self._ip is None:
                found = await _look_up(self._address)
                self._ip = choose_ip(self._address.host, found, private_allowed=self._settings.private_allowed)
            return self._ip

    def _refuse_failure(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
        """Raise _Retry or UserError unless the server answered 200."""
        if status == httpx2.codes.OK:
            return
        said = self._clean(_complaint(content))
        if status in _RETRIED or status >= httpx2.codes.INTERNAL_SERVER_ERROR:
            message = f"status {status}: {said}"
            raise _Retry(message, _retry_after(headers))
        advice = _ADVICE.get(status, "check the endpoint's settings")
        if httpx2.codes.is_redirect(status):
            advice = "redirects are not followed; register the address that it leads to"
        message = f"the endpoint {self._address.netloc} refused with status {status}: {advice}. It says: {said}"
        raise UserError(message)

    def _clean(self, text: str) -> str:
        """Return text of a server without the key, should it repeat it."""
        return text.replace(self._key, "…") if self._key else text


_ADVICE = {
    400: "check the endpoint's model, whether it knows top_k (sends_top_k), what it calls the limit (limit_field), and the length of the prompts",
    401: "its key is missing or wrong; check the environment variable named in the endpoint's settings",
    403: "its key may not use this model",
    404: "nothing is at this address, or it has no such model; check the address (it usually ends with /v1) and the model's name",
    422: "check whether it knows top_k (sends_top_k) and what it calls the limit (limit_field)",
}


async def _look_up(address: Address) -> list[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        message = f"the name {address.host} cannot be looked up: {error}"
        raise _Retry(message) from error
    return [str(item[4][0]) for item in found]


def _body(settings: EndpointSettings, request: Request) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": settings.model,
        "messages": [dict(message) for message in request.messages],
        "temperature": request.temperature,
        settings.limit_field: request.max_tokens,
        "seed": request.seed,
        "stream": False,
    }
    if request.top_p < 1:
        body["top_p"] = request.top_p
    if settings.sends_top_k and request.top_k:
        body["top_k"] = request.top_k
    return body


def _answer(content: bytes) -> Answer:
    """Return the answer in a response. Raises _Retry when it is not one."""
    try:
        value = loads(content)
        choice = value["choices"][0]
        text = "" + (choice["message"]["content"] or "")  # a TypeError when it is no text
        usage = value.get("usage") or {}
        counts = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
    except (JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"the answer is not JSON: {_complaint(content)}"
        raise _Retry(message) from error
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        message = f"the answer has no choices[0].message.content as text: {_complaint(content)}"
        raise _Retry(message) from error
    return Answer(text, choice.get("finish_reason") == "length", max(counts[0], 0), max(counts[1], 0))


def _complaint(content: bytes) -> str:
    text = " ".join(content[: 4 * _SHOWN].decode(errors="replace").split())
    return (text[:_SHOWN] + ("…" if len(text) > _SHOWN else "")) or "nothing"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a Retry-After header asks for, as a number or a date; None when there is none."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        return float(value)
    except ValueError:
        pass
    try:
        return (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):
        return None
