"""`manage.py demo`: RSO and DPO on the built-in task through the running product, with the result table."""

import argparse
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from rso_core.config import RunConfig
from rso_core.demo import changed, demo_config
from rso_core.errors import RsoError
from rso_core.references import BUILT_IN, built_in_dataset, built_in_model
from rso_core.vocabulary import DatasetKind
from webapp.runs.browser import Browser
from webapp.runs.demo import Visitor, bounds, interval

_DATASETS: Mapping[str, DatasetKind] = {"preferences": "preference", "sft": "sft"}


class Command(BaseCommand):
    """Launch the demo in a running product and report what came of it."""

    help = "Run RSO and DPO on the built-in task in the running product, and show exact win rates."
    requires_system_checks = ()

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Say where the product is and who one is; `make demo` passes both in the environment."""
        parser.add_argument("--url", default=os.environ.get("BASE_URL", "http://127.0.0.1:8000"))
        parser.add_argument("--link", default=os.environ.get("ONE_TIME_LINK", ""), help="one-time sign-in link")
        parser.add_argument("--username", default="")
        parser.add_argument("--password", default="")
        parser.add_argument("--seed", type=int, default=0, help="another seed draws other data, weights and samples")
        parser.add_argument("--result", type=Path, default=Path(settings.VAR_DIR) / "demo" / "result.json")

    def handle(self, **options: Any) -> None:
        """Do what a person would do, then print the table."""
        start = time.monotonic()
        visitor = Visitor(Browser(options["url"]), self.stdout.write)
        try:
            visitor.enter(link=options["link"], username=options["username"], password=options["password"])
            result, runs = _run(visitor, options["seed"])
        except RsoError as error:
            raise CommandError(str(error)) from error
        result = {"seconds": round(time.monotonic() - start, 1), **result}
        options["result"].parent.mkdir(parents=True, exist_ok=True)
        options["result"].write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        self.stdout.write(table(result))
        for name, number in runs.items():
            self.stdout.write(f"{name}: {options['url']}/runs/{number}/")
        self.stdout.write(f"The figures are in {options['result']}")


def _run(visitor: Visitor, seed: int) -> tuple[dict[str, Any], dict[str, int]]:
    configs = [_prepared(visitor, demo_config(system, seed)) for system in ("rso", "dpo")]
    runs = {config.name: visitor.launch(config) for config in configs}
    statuses = visitor.watch(runs)
    rso, dpo = (statuses[config.name]["results"] for config in configs)
    return summary(rso, dpo), runs


def _prepared(visitor: Visitor, config: RunConfig) -> RunConfig:
    """Import what a recipe of the built-in task names; return it with the names in the product."""
    names: dict[str, str] = {}
    for role, kind in _DATASETS.items():
        task = (built_in_dataset(getattr(config.data, role), kind) or {})[BUILT_IN]
        name = f"mini_tldr {role}, seed {task['seed']}"
        names[f"data.{role}"] = name
        visitor.import_dataset(name, {"kind": kind, "origin": "mini_tldr", **{k: str(v) for k, v in task.items()}})
    for setting, reference in (("model.base", config.model.base), ("reward.model", config.reward.model)):
        base = (built_in_model(reference) or {})[BUILT_IN]
        names[setting] = f"mini_tldr {base['family']}, {base.get('weights') or 'seed ' + str(base['seed'])}"
        visitor.import_model(names[setting], {"origin": "mini_tldr", **{k: str(v) for k, v in base.items()}})
    return changed(config, names)


def summary(rso: Mapping[str, Any], dpo: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of the three systems, all against the SFT targets on the same test prompts."""
    rates = {"sft": rso["sft"], "dpo": dpo["policy"], "rso": rso["policy"]}
    return {
        "systems": {
            name: {f"{metric}_win_rate": bounds(rate[metric]) for metric in ("proxy", "gold")}
            for name, rate in rates.items()
        },
        "rso_minus_sft": bounds(rso["difference"]["gold"]),
    }


def table(result: Mapping[str, Any]) -> str:
    """Return the result as lines for people."""
    titles = {"sft": "SFT", "dpo": "DPO (direct)", "rso": "RSO"}
    lines = ["", f"{'% of test prompts won against the SFT target':<46}{'proxy':>24}{'gold (exact)':>24}"]
    for name, title in titles.items():
        rates = result["systems"][name]
        lines.append(f"{title:<46}{interval(rates['proxy_win_rate']):>24}{interval(rates['gold_win_rate']):>24}")
    lines.append(f"{'RSO − SFT, paired':<46}{'':>24}{interval(result['rso_minus_sft']):>24}")
    return "\n".join([*lines, f"95 % intervals over prompts; {result['seconds']:.0f} seconds.", ""])
