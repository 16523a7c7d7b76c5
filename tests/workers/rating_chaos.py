"""Let raters answer over HTTP while the web process and PostgreSQL are killed; print what came of it as JSON.

python -m tests.workers.rating_chaos FOLDER SEED FAULT...
"""

import contextlib
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.rating_client import RaterClient, RefusedError, Task, task_of
from tests.workers.cluster import ROOT, STILL_SECONDS, Patience, set_up_django
from workers import commands
from workers.embedded_postgres import EmbeddedPostgres
from workers.lifeline import dying_with_me

RATERS = 6
ITEMS = 400  # more than anybody gets to
MADE = re.compile(r"Answer (\d) to post (\d+)\.")  # the texts of made_campaign
SAVED, AGAIN = "Saved.", "This answer was saved before. It counts once."


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Site:
    """A web process and its database."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.postgres = EmbeddedPostgres(folder / "postgres", durable=True)
        self.web: subprocess.Popen[bytes] | None = None

    def start_web(self) -> None:
        with (self.folder / "web.log").open("ab") as log:
            self.web = subprocess.Popen(
                commands.web("127.0.0.1", self.port).of(),
                cwd=ROOT,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=dying_with_me(signal.SIGKILL),  # noqa: PLW1509 - it only makes one system call
            )

    def kill_web(self) -> None:
        if self.web is not None:
            os.killpg(self.web.pid, signal.SIGKILL)
            self.web.wait()

    def kill_postgres(self) -> None:
        os.kill(self._server().pid, signal.SIGKILL)

    def kill_a_session(self) -> None:
        """Kill the server's process of one of the web's connections: PostgreSQL then resets itself with all others."""
        sessions = [
            process
            for process in self._server().children()
            if " 127.0.0.1" in _title(process) or "[local]" in _title(process)
        ]
        if sessions:
            sessions[-1].kill()

    def _server(self) -> psutil.Process:
        assert self.postgres.pid is not None
        return psutil.Process(self.postgres.pid)


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def web(site: Site) -> None:
    site.kill_web()
    site.start_web()


def postgres(site: Site) -> None:
    site.kill_postgres()
    site.postgres.restart()


def session(site: Site) -> None:
    site.kill_a_session()


def both(site: Site) -> None:
    site.kill_postgres()
    site.kill_web()
    site.postgres.restart()
    site.start_web()


FAULTS: dict[str, Callable[[Site], None]] = {"web": web, "postgres": postgres, "session": session, "both": both}


@dataclass
class Said:
    """What a rater sent, by response index as the texts on the page tell it, and what was answered to it."""

    item: int
    quality: tuple[int, ...]
    choice: int | None
    tries: int = 0
    answer: str = ""


@dataclass
class Person:
    """Somebody who rates until told to stop, and sends every form again until it is acknowledged."""

    client: RaterClient
    draw: random.Random
    stop: threading.Event
    said: dict[str, Said] = field(default_factory=dict)  # by the form's client_id
    troubles: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def rate(self, path: str) -> None:
        try:
            while not self.stop.is_set():
                if task := task_of(self._page(path)):
                    self._answer(path, task)
                time.sleep(self.draw.uniform(0, 0.05))
        except Exception as error:  # noqa: BLE001 - whatever it is, the test is to show it
            self.wrong.append(repr(error))

    @property
    def acknowledged(self) -> int:
        return sum(bool(said.answer) for said in list(self.said.values()))

    def _answer(self, path: str, task: Task) -> None:
        fields, said = self._filled_in(task)
        self.said[fields["client_id"]] = said
        as_script = self.draw.random() < 0.5
        while not said.answer:
            said.tries += 1
            said.answer = self._sent(path, fields, as_script=as_script)
        if self.draw.random() < 0.1:  # the button was pressed twice
            again = self._sent(path, fields, as_script=as_script)
            if again not in {AGAIN, ""}:
                self.wrong.append(f"sent again, a form was answered {again!r}")

    def _filled_in(self, task: Task) -> tuple[dict[str, str], Said]:
        places = [MADE.fullmatch(text.strip()) for text in task.texts[1:]]
        indices = [int(place[1]) for place in places if place]
        scores = [self.draw.randint(1, 5) for _ in indices]
        best = self.draw.choice([None, *range(3)])
        quality = tuple(score for _, score in sorted(zip(indices, scores, strict=True)))
        said = Said(int(places[0][2]), quality, None if best is None else indices[best])  # type: ignore[index]
        fields = {f"q{place}": str(score) for place, score in enumerate(scores, start=1)}
        fields |= {"best": str(0 if best is None else best + 1), "reason": ""}
        return task.hidden | fields | {"asked": "1"}, said

    def _sent(self, path: str, fields: dict[str, str], *, as_script: bool) -> str:
        """Return the sentence by which a form was acknowledged; empty when it is not known whether it was stored."""
        reply = self._tried(lambda: self.client.post(path, fields, as_script=as_script))
        if reply is None:
            return ""
        if as_script and reply.status == 200:
            return str(json.loads(reply.text)["say"])
        if reply.status == 302 and reply.location == path:
            said = self._said_on(path)
            self.wrong += [f"a form was refused: {text}" for level, text in said if level != "done"]
            return said[0][1] if said else ""
        self.wrong.append(f"a form was answered {reply.status} {reply.location}: {reply.text[:200]}")
        return "refused"

    def _said_on(self, path: str) -> list[tuple[str, str]]:
        """Return the messages on the page that follows; a cookie keeps them until it has come."""
        while True:
            reply = self._tried(lambda: self.client.get(path))
            if reply is not None:
                return reply.said

    def _page(self, path: str) -> str:
        while not self.stop.is_set():
            reply = self._tried(lambda: self.client.get(path))
            if reply is not None:
                if reply.status != 200:
                    self.wrong.append(f"{path} answered {reply.status} {reply.location}")
                return reply.text
        return ""

    def _tried(self, ask: Callable[[], Any]) -> Any:
        """Return the reply; None, after a moment, when there was none or the server was in trouble."""
        try:
            reply = ask()
        except (OSError, http.client.HTTPException) as error:
            self.troubles[type(error).__name__] += 1
        else:
            if reply.status < 500:
                return reply
            self.troubles[str(reply.status)] += 1
        time.sleep(self.draw.uniform(0.05, 0.2))
        return None


def made(raters: int) -> tuple[Any, list[str]]:
    """Return an open campaign and invitations to it."""
    from tests.webapp.human_eval.made_campaigns import made_campaign
    from webapp.accounts.models import User
    from webapp.human_eval.services import invite_many

    owner = User.objects.create_user("researcher", password=None)
    campaign = made_campaign(owner, items=ITEMS)
    return campaign, invite_many(campaign, by=owner, notes=[""] * raters)


def hurt(site: Site, people: list[Person], draw: random.Random, faults: list[str]) -> list[str]:
    """Do each fault after some more answers were acknowledged, and then wait for some more."""
    happened: list[str] = []
    patience = Patience(site.folder)
    for fault in [*draw.sample(faults, len(faults)), ""]:
        enough = acknowledged(people) + draw.randint(10, 30)
        while acknowledged(people) < enough and not any(person.wrong for person in people):
            patience.look((acknowledged(people), len(happened)))
            time.sleep(draw.uniform(0, 0.02))
        if fault:
            FAULTS[fault](site)
            happened.append(fault)
    return happened


def acknowledged(people: list[Person]) -> int:
    return sum(person.acknowledged for person in people)


def stored(campaign: Any, said: dict[str, Said]) -> dict[str, Any]:
    """Compare what is in the database with what was sent."""
    from webapp.human_eval.invariants import broken_rules
    from webapp.human_eval.models import Answer

    answers = list(Answer.objects.filter(campaign=campaign).select_related("item"))
    kept = {
        str(answer.client_id): (
            answer.item.index,
            (answer.quality_0, answer.quality_1, answer.quality_2),
            answer.choice,
        )
        for answer in answers
    }
    sent = {key: (one.item, one.quality, one.choice) for key, one in said.items() if one.answer in {SAVED, AGAIN}}
    return {
        "stored": len(answers),
        "acknowledged": len(sent),
        "lost": sorted(set(sent) - set(kept)),
        "unasked": sorted(set(kept) - set(said)),
        "different": [key for key in sent if kept.get(key, sent[key]) != sent[key]],
        "twice": [key for key, count in Counter((a.item_id, a.rater_id) for a in answers).items() if count > 1],
        "not_counted": sum(answer.standing != "counted" for answer in answers),
        "broken": list(broken_rules(campaign)),
    }


def durability() -> dict[str, str]:
    """Return the settings on which it depends that what was committed is there after a power cut."""
    from django.db import connection

    with connection.cursor() as cursor:
        names = ("fsync", "synchronous_commit", "full_page_writes")
        found = {}
        for name in names:
            cursor.execute(f"SHOW {name}")
            found[name] = str(cursor.fetchone()[0])
        return found


def main(folder: Path, seed: int, faults: list[str]) -> dict[str, Any]:
    draw = random.Random(seed)  # noqa: S311
    site = Site(folder)
    site.postgres.start()
    os.environ |= {"DATABASE_URL": site.postgres.url, "RSO_VAR_DIR": str(folder), "RSO_WEB_THREADS": "8"}
    try:
        set_up_django()
        site.start_web()
        return _hurt_and_counted(site, draw, faults)
    finally:
        site.kill_web()
        site.postgres.stop()


def _hurt_and_counted(site: Site, draw: random.Random, faults: list[str]) -> dict[str, Any]:
    from django.db import connections

    campaign, invitations = made(RATERS)
    settings = durability()
    stop = threading.Event()
    people = [Person(RaterClient(site.port, timeout=20), random.Random(draw.random()), stop) for _ in invitations]  # noqa: S311
    threads = [
        threading.Thread(target=_join_and_rate, args=(person, invitation), daemon=True)
        for person, invitation in zip(people, invitations, strict=True)
    ]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    try:
        happened = hurt(site, people, draw, faults)
    finally:
        stop.set()
        for thread in threads:
            thread.join(STILL_SECONDS)
    seconds = time.monotonic() - began
    site.kill_postgres()  # nothing is read that only a living server remembers
    site.postgres.restart()
    connections.close_all()
    said = {key: one for person in people for key, one in person.said.items()}
    return {
        "happened": happened,
        "seconds": round(seconds, 1),
        "troubles": dict(sum((person.troubles for person in people), Counter())),
        "tried_again": sum(one.tries > 1 for one in said.values()),
        "found_saved": sum(one.answer == AGAIN for one in said.values()),
        "wrong": [text for person in people for text in person.wrong],
        "settings": settings,
        **stored(campaign, said),
    }


def _join_and_rate(person: Person, invitation: str) -> None:
    while not person.stop.is_set():
        try:
            path = person.client.accept(invitation)
        except (OSError, http.client.HTTPException, RefusedError):
            time.sleep(0.1)  # the web process or the database is still starting
        else:
            person.rate(path)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])) + "\n")
