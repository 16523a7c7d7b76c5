"""What is known of an OpenAI-compatible endpoint (vLLM, SGLang, TGI, transformers serve, hosted): settings, no secrets.

The key is named, never held: `key_variable` is an environment variable of the workers. Only names that begin with
`RSO_ENDPOINT_KEY_` can be read, so that no endpoint can be given another secret of the machine. Only endpoints in the
file that `RSO_ENDPOINTS` names can be asked, and only an admin can write there; runs know an endpoint by name and model.
Must stay light.
"""

import os
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rso_core.config import describe_validation_error
from rso_core.endpoint_address import parse_address
from rso_core.errors import UserError
from rso_core.yaml_text import read_yaml

KEY_PREFIX = "RSO_ENDPOINT_KEY_"


class EndpointSettings(BaseModel):
    """An endpoint, how to ask it, and what it costs."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    address: str = Field(max_length=300, description="Base address of the API, for example https://api.example.org/v1.")
    model: str = Field(min_length=1, max_length=200, description="Name of the model as the endpoint calls it.")
    key_variable: str = Field(
        "",
        pattern=rf"^({KEY_PREFIX}[A-Z0-9_]+)?$",
        max_length=100,
        description=f"Environment variable of the workers that holds the key; begins with {KEY_PREFIX}. Empty: no key.",
    )
    private_allowed: bool = Field(
        False, description="An admin allows http and addresses of this machine or of a private network."
    )
    sends_top_k: bool = Field(
        False,
        description="Send `top_k`: vLLM, SGLang and llama.cpp know it, hosted services and transformers serve refuse it.",
    )
    limit_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="What the API calls the longest answer; some hosted models want the newer name."
    )
    timeout_seconds: float = Field(120.0, gt=0, le=3600, description="Longest wait for one answer, from start to end.")
    max_retries: int = Field(
        5, ge=0, le=20, description="Further tries after 429, 5xx, a broken connection or a timeout."
    )
    concurrency: int = Field(4, ge=1, le=256, description="Requests under way at once.")
    prompt_price: float = Field(0.0, ge=0, le=1e6, description="Price of a million prompt tokens.")
    completion_price: float = Field(0.0, ge=0, le=1e6, description="Price of a million tokens of answers.")

    @model_validator(mode="after")
    def _address_is_one(self) -> Self:
        try:
            parse_address(self.address, private_allowed=self.private_allowed)
        except UserError as error:
            raise ValueError(str(error)) from error
        return self

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return what tokens cost, in the currency of the prices."""
        return (prompt_tokens * self.prompt_price + completion_tokens * self.completion_price) / 1e6


def load_endpoints(path: Path) -> dict[str, EndpointSettings]:
    """Return the endpoints described in a YAML file, by name. Raises UserError."""
    try:
        found = read_yaml(path.read_text(encoding="utf-8")) or {}
        return {str(name): EndpointSettings.model_validate(values) for name, values in found.items()}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError) as error:
        message = f"the endpoint file {path} (RSO_ENDPOINTS) cannot be read as names with settings: {error}"
        raise UserError(message) from error
    except ValidationError as error:
        message = f"the endpoint file {path} (RSO_ENDPOINTS) is wrong: {describe_validation_error(error)}"
        raise UserError(message) from error


def allowed_endpoints() -> dict[str, EndpointSettings]:
    """Return the endpoints that an admin has allowed: those in the file that RSO_ENDPOINTS names, none without it."""
    path = os.environ.get("RSO_ENDPOINTS", "")
    return load_endpoints(Path(path).expanduser()) if path else {}


def allowed_models() -> dict[str, str]:
    """Return the model behind each allowed endpoint, by the endpoint's name: what plans are made from."""
    return {name: endpoint.model for name, endpoint in allowed_endpoints().items()}


def find_endpoint(name: str, model: str) -> EndpointSettings:
    """Return an allowed endpoint where work is done. Raises UserError when it is gone, or has another model since."""
    known = allowed_endpoints()
    if name not in known:
        message = (
            f"no endpoint is called {name!r} on this worker; known: {', '.join(sorted(known)) or 'none'}. An admin adds it to the "
            f"file that RSO_ENDPOINTS names, for the web process and the workers, and starts them again"
        )
        raise UserError(message)
    if known[name].model != model:
        message = f"the endpoint {name!r} has the model {known[name].model!r} now, the run was planned with {model!r}; clone the run"
        raise UserError(message)
    return known[name]
