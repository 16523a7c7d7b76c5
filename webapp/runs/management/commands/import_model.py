"""`manage.py import_model PATH --name NAME`: what the page New model does."""

import argparse
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from rso_core.errors import UserError
from webapp.runs.command_line import add_common_arguments, owner, store_file, wait
from webapp.runs.models import RegisteredModel
from webapp.runs.services import request_model_import


class Command(BaseCommand):
    """Register a language model."""

    help = "Import a model: a folder with config.json, *.safetensors and tokenizer, a GGUF file, or a hub id."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare where the model is."""
        parser.add_argument(
            "path", nargs="?", type=Path, help="a folder that the workers can read, or a GGUF file; or --hub"
        )
        add_common_arguments(parser)

    def handle(self, **options: Any) -> None:
        """Register, ask for the import and, unless told otherwise, wait for it."""
        try:
            model = self._request(options)
        except UserError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"{model.name} is registered")
        if options["wait"] and wait(model, self.stdout):
            summary = model.summary
            self.stdout.write(
                f"{summary['family']}, {summary['parameters']:,} parameters, vocabulary of {summary['vocabulary']:,}, "
                f"{'with' if summary['chat_template'] else 'without'} a chat template"
            )

    def _request(self, options: dict[str, Any]) -> RegisteredModel:
        path: Path | None = options["path"]
        config, upload = _config(options)
        return request_model_import(
            owner=owner(options["owner"]),
            name=options["name"],
            config=config,
            upload_digest=upload,
            source=options["source"] or (path.name if path else options["hub"]),
            licence=options["licence"],
        )


def _config(options: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Return the configuration of the import stage and the digest of the stored GGUF file, if it is one."""
    path: Path | None = options["path"]
    if bool(path) == bool(options["hub"]):
        message = "name either a folder or GGUF file, or --hub owner/name"
        raise UserError(message)
    if path is None:
        return {"hub": options["hub"], "revision": options["revision"] or "main"}, None
    if path.is_dir():
        return {"path": str(path.resolve())}, None
    return {}, store_file(path)
