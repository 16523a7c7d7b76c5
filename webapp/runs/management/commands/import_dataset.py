"""`manage.py import_dataset FILE --name NAME --kind KIND …`: what the page New dataset does."""

import argparse
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from rso_core.errors import UserError
from rso_core.importers import Options
from rso_core.layouts import LAYOUTS
from webapp.runs.command_line import add_common_arguments, owner, store_file, wait
from webapp.runs.models import Dataset
from webapp.runs.services import request_dataset_import


class Command(BaseCommand):
    """Import a dataset from a file or the hub."""

    help = "Import a dataset: JSONL, JSON, CSV or Parquet (the text formats also as .gz), or a hub id."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare file, kind, layout and mapping."""
        parser.add_argument("file", nargs="?", type=Path, help="the file to import; or --hub")
        add_common_arguments(parser)
        parser.add_argument("--kind", choices=Dataset.Kind.values, default=Dataset.Kind.PREFERENCE.value)
        parser.add_argument("--task", choices=["dialogue", "summarization"], default="dialogue")
        parser.add_argument("--layout", choices=LAYOUTS, default="auto", help="default: told from the first row")
        parser.add_argument("--all-ranks", action="store_true", help="trees: pairs of every two ranked replies")
        parser.add_argument(
            "--map",
            action="append",
            default=[],
            metavar="OURS=THEIRS",
            help="column mapping, repeated: prompt=…, chosen=…, rejected=…, target=…, root=…, meta=… (several)",
        )
        parser.add_argument("--hub-file", default="", help="the file of the hub dataset to import")
        parser.add_argument("--split", default="", help="the split of the hub dataset to import; default: train")

    def handle(self, **options: Any) -> None:
        """Register, ask for the import and, unless told otherwise, wait for it."""
        try:
            dataset = self._request(options)
        except UserError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"{dataset.name} is registered")
        if options["wait"] and wait(dataset, self.stdout):
            self._report(dataset)

    def _request(self, options: dict[str, Any]) -> Dataset:
        config = _config(options)
        path = options["file"]
        return request_dataset_import(
            owner=owner(options["owner"]),
            name=options["name"],
            kind=options["kind"],
            task=options["task"],
            config=config,
            upload_digest=store_file(path) if path else None,
            source=options["source"] or (path.name if path else options["hub"]),
            licence=options["licence"],
        )

    def _report(self, dataset: Dataset) -> None:
        self.stdout.write(
            f"{dataset.rows_in:,} rows in = {dataset.rows_kept:,} kept + {dataset.rows_rejected:,} rejected "
            f"(layout: {dataset.summary['layout']})"
        )
        reasons = dataset.summary["reasons"]
        for code, count in sorted(dataset.summary["rejected"].items(), key=lambda item: -item[1]):
            self.stdout.write(f"{count:>10,} {reasons[code]}")


def _config(options: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of the import stage. Raises UserError, before anything is stored, when it is wrong."""
    if bool(options["file"]) == bool(options["hub"]):
        message = "name either a file or --hub owner/name"
        raise UserError(message)
    config: dict[str, Any] = {"layout": options["layout"]}
    if options["all_ranks"]:
        config["all_ranks"] = True
    if options["map"]:
        config["mapping"] = _mapping(options["map"])
    if options["hub"]:
        names = {"revision": options["revision"] or "main", "file": options["hub_file"], "split": options["split"]}
        config |= {"hub": options["hub"], **{name: value for name, value in names.items() if value}}
    Options(kind=options["kind"], layout=options["layout"], mapping=config.get("mapping", {}))
    return config


def _mapping(pairs: list[str]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for pair in pairs:
        ours, equals, theirs = pair.partition("=")
        if not equals or not theirs:
            message = f"a column mapping is written OURS=THEIRS, for example --map prompt=question; received {pair!r}"
            raise UserError(message)
        if ours == "meta":
            mapping.setdefault("meta", []).append(theirs)
        else:
            mapping[ours] = theirs
    return mapping
