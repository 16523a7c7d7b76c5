"""The playground in Chromium: a web process with Gradio in it, a real worker, toy models; nothing leaves this machine."""

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.conf import settings as django_settings
from playwright.sync_api import Locator, Page, expect

from tests.rso_core.chain import dataset_row, import_model, import_rows
from webapp.accounts.models import User
from webapp.human_eval.models import Answer
from webapp.playground.models import Generation, Question
from webapp.runs.artifacts import store
from webapp.runs.models import Dataset, RegisteredModel

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

ROOT = Path(__file__).resolve().parents[2]
STARTED = 150_000  # milliseconds until Gradio is imported, or a worker has started, on a busy machine
PROMPT = "the cat sat on the mat"
# The web process, with every look-up and connection that does not stay on this machine written down and refused.
SERVE = """
import sys
def watch(event, arguments):
    if event in ("socket.getaddrinfo", "socket.connect", "socket.gethostbyname"):
        where = arguments[0] if event != "socket.connect" else arguments[1]
        host = where[0] if isinstance(where, tuple) else where
        if host not in ("127.0.0.1", "localhost", "::1", "", None, b"127.0.0.1") and not str(host).startswith("/"):
            with open(sys.argv[2], "a") as file:
                file.write(f"{event} {where}\\n")
            raise OSError("no network")
sys.addaudithook(watch)
import uvicorn
uvicorn.run("webapp.asgi:application", host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
"""


def answers_at(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/static/icon.svg")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Where the web process writes what it would have asked of other machines."""
    return tmp_path / "outside"


@pytest.fixture
def home(database_url: str, tmp_path: Path, outside: Path) -> Iterator[str]:
    """A web process as the product starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "DATABASE_URL": database_url,
        "RSO_VAR_DIR": str(tmp_path),
        "ARTIFACT_URL": str(tmp_path / "artifacts"),
        "CELERY_BROKER_URL": "filesystem://",
        "SECRET_KEY": django_settings.SECRET_KEY,
    }
    command = [sys.executable, "-W", "ignore", "-c", SERVE, str(port), str(outside)]
    with (tmp_path / "web.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    deadline = time.monotonic() + STARTED / 1000
    while not answers_at(port):
        assert process.poll() is None, (tmp_path / "web.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def toys(owner: User) -> None:
    """Register three toy models and a dataset of one prompt."""
    for seed in range(3):
        digest = import_model(store(), "causal", seed=seed)
        RegisteredModel.objects.create(owner=owner, name=f"toy {seed}", family="causal", digest=digest)
    rows = import_rows(store(), "prompts", [dataset_row(1, PROMPT)])
    Dataset.objects.create(
        owner=owner, name="prompts", kind="prompts", task="dialogue", digest=rows, rows_in=1, rows_kept=1
    )


def choice(page: Page, question: str, option: str) -> Locator:
    return page.get_by_role("radiogroup", name=question, exact=True).get_by_role("radio", name=option, exact=True)


def test_a_prompt_is_answered_by_three_models_rated_and_counted(
    page: Page,
    sign_in: Callable[[User], None],
    axe: Callable[[Page], None],
    worker: subprocess.Popen[bytes],
    researcher: User,
    outside: Path,
) -> None:
    toys(researcher)
    sign_in(researcher)
    page.set_default_timeout(STARTED)
    page.goto("/")
    page.get_by_role("link", name="Playground").click()
    expect(page.get_by_text("No judgement yet.")).to_be_visible(timeout=STARTED)

    # A prompt of a dataset, and three models, blind
    page.get_by_label("Dataset").click()
    page.get_by_role("option", name="prompts").click()
    page.get_by_role("button", name="Take a prompt").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(PROMPT)
    page.get_by_label("Models").click()
    for number in range(3):
        page.get_by_role("option", name=f"toy {number}").click()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_role("heading", name="Answer 3", exact=True)).to_be_visible()
    expect(page.get_by_text("All answers are there that will come.")).to_be_visible(timeout=STARTED)
    texts = list(Generation.objects.order_by("place").values_list("text", flat=True))
    for place, text in enumerate(texts, start=1):
        expect(page.get_by_label(f"Text of answer {place}")).to_have_value(text)
        expect(page.get_by_role("heading", name=f"Answer {place}", exact=True)).to_be_visible()

    # Incomplete, then complete
    choice(page, "Quality of answer 1", "2").check()
    choice(page, "Quality of answer 3", "5 excellent").check()
    choice(page, "Which answer is best?", "Answer 3").check()
    page.get_by_role("button", name="Keep the judgement").click()
    expect(page.get_by_text("rate answer 2 from 1 to 5")).to_be_visible()
    choice(page, "Quality of answer 2", "1 poor").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")  # none was chosen: 2, 3, 4
    page.keyboard.press("ArrowLeft")
    expect(choice(page, "Quality of answer 2", "3")).to_be_checked()
    page.get_by_role("button", name="Keep the judgement").click()
    expect(page.get_by_text("Your judgement is kept.")).to_be_visible()
    best = Generation.objects.get(place=2)
    expect(page.get_by_role("heading", name=f"Answer 3: {best.label}")).to_be_visible()
    expect(page.get_by_role("row").nth(1)).to_contain_text(best.label)
    expect(page.get_by_role("row").nth(1)).to_contain_text("2 of 2")
    axe(page)

    # What is stored
    question, answer = Question.objects.get(), Answer.objects.get()
    by_index = list(question.generations.order_by("index"))
    assert question.item_id == answer.item_id
    assert answer.choice == best.index
    assert [answer.quality_0, answer.quality_1, answer.quality_2] == [{0: 2, 1: 3, 2: 5}[one.place] for one in by_index]
    assert [response.text for response in answer.item.responses.all()] == [one.text for one in by_index]
    assert not outside.exists(), outside.read_text()


def test_a_question_nobody_answers_says_so_and_can_be_stopped(
    page: Page, sign_in: Callable[[User], None], researcher: User
) -> None:
    toys(researcher)
    sign_in(researcher)
    page.set_default_timeout(STARTED)
    page.goto("/playground/")
    expect(page.get_by_text("No judgement yet.")).to_be_visible(timeout=STARTED)
    page.get_by_label("Prompt", exact=True).fill("is <b>anybody</b> there")
    page.get_by_label("Models").click()
    page.get_by_role("option", name="toy 1").click()
    page.keyboard.press("Escape")
    choice(page, "Comparison", "Open").check()
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_text("No worker is running")).to_be_visible()
    expect(page.get_by_role("heading", name="Answer 1: toy 1")).to_be_visible()
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.get_by_text("you stopped it")).to_be_visible()
    assert Generation.objects.get().status == "stopped"
