"""The files of `deploy/` say what the code does: the same commands, every variable."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from workers import commands

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"

EVERYWHERE, HERE = commands.web("0.0.0.0", 8000), commands.web("127.0.0.1", 8000)  # noqa: S104 - inside a container
PLAY, PLAY_HERE = commands.playground("0.0.0.0", 8001), commands.playground("127.0.0.1", 8001)  # noqa: S104
GPU, CPU = commands.worker("gpu", "gpu1"), commands.worker("cpu", "cpu")
COMPOSE = {"migrate": commands.migrate(), "web": EVERYWHERE, "playground": PLAY, "gpu": GPU, "cpu": CPU}
COMPOSE |= {"beat": commands.beat()}
UNITS = {"rso-web": HERE, "rso-playground": PLAY_HERE, "rso-gpu@": commands.worker("gpu", "gpu%i"), "rso-cpu": CPU}
UNITS |= {"rso-beat": commands.beat()}


@pytest.mark.parametrize("service", COMPOSE)
def test_compose_runs_the_commands_that_the_supervisor_runs(service: str) -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert shlex.split(services[service]["command"]) == COMPOSE[service].of("python")


def test_compose_has_every_service() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert set(services) == {*COMPOSE, "database", "broker"}


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_runs_the_commands_that_the_supervisor_runs(unit: str) -> None:
    lines = (DEPLOY / "systemd" / f"{unit}.service").read_text().splitlines()
    starts = [line.removeprefix("ExecStart=") for line in lines if line.startswith("ExecStart=")]
    expected = UNITS[unit].of("/srv/rso-studio/.venv/bin/python")
    assert [shlex.split(line.replace("%%", "%")) for line in starts] == [expected]


def test_the_image_serves_pages_unless_told_otherwise() -> None:
    line = next(line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if line.startswith("CMD "))
    assert json.loads(line.removeprefix("CMD ")) == EVERYWHERE.of("python")


def test_the_example_names_every_variable_that_is_read_and_no_other() -> None:
    readers = ("webapp/settings.py", "workers/postgres_binaries.py", "rso_core/endpoint_settings.py")
    code = "".join((ROOT / name).read_text() for name in readers)
    read = set(re.findall(r'(?:env\w+|database|environ\.get)\(\s*"([A-Z_]+)"', code)) | {
        "SECRET_KEY_FILE",
        "HF_HUB_OFFLINE",
    }
    named = re.findall(r"^([A-Z_]+)=", (DEPLOY / "env.example").read_text(), flags=re.MULTILINE)
    assert sorted(named) == sorted(read)


def test_the_readme_names_every_file() -> None:
    text = (DEPLOY / "README.md").read_text()
    for path in DEPLOY.iterdir():
        assert path.name in text or path.name in {"env", "README.md"}
