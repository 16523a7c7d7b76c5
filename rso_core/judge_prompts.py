"""The few-shot prompts of judges: those that come with the product, and edited copies."""

from functools import lru_cache
from pathlib import Path

import yaml
from pydantic import ValidationError

from rso_core.auto_sxs import FewShot
from rso_core.errors import UserError
from rso_core.vocabulary import Task
from rso_core.yaml_text import read_yaml

_FOLDER = Path(__file__).parent / "few_shot"


@lru_cache(maxsize=8)
def few_shot_text(task: Task) -> str:
    """Return the few-shot prompt of a task that comes with the product, as YAML to edit."""
    return (_FOLDER / f"{task}.yaml").read_text(encoding="utf-8")


def parse_few_shot(text: str, task: Task) -> FewShot:
    """Return the few-shot prompt written in YAML; the product's own when the text is empty. Raises UserError."""
    try:
        return FewShot.model_validate(read_yaml(text if text.strip() else few_shot_text(task)))
    except yaml.YAMLError as error:
        message = f"judge.few_shot is not valid YAML: {error}. Mend that line"
        raise UserError(message) from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'the whole'}: {item['msg']}" for item in error.errors())
        message = (
            f"judge.few_shot must hold instruction, context, response and examples as the files in rso_core/few_shot do: "
            f"{wrong}"
        )
        raise UserError(message) from error
