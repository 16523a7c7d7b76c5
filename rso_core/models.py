"""Load, save and adapt language models of both families: decoder-only (causal) and T5 (seq2seq).

A model is a local folder: config.json, safetensors, tokenizer. Remote code is never run, pickled weights are never
read, nothing is downloaded here (`rso_core.model_import` does that on request). Everything random is seeded.
"""

import hashlib
import os
import random
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from rso_core.attention import ATTENTION
from rso_core.errors import UserError
from rso_core.lean_layers import make_lean
from rso_core.vocabulary import Family, canonical_json

T5_FAMILY = frozenset({"t5", "mt5", "umt5"})
PICKLED = (".bin", ".pt", ".pth", ".ckpt")


@dataclass
class LanguageModel:
    """A model with its tokenizer; `model` may be wrapped in adapters (see `add_lora`)."""

    model: Any
    tokenizer: Any
    family: Family

    @property
    def plain(self) -> Any:
        """Return the transformers model itself, also when adapters are wrapped around it."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def device(self) -> torch.device:
        """Return the device of the weights."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Return the precision of the weights."""
        dtype: torch.dtype = next(self.model.parameters()).dtype
        return dtype

    @property
    def is_checkpointed(self) -> bool:
        """Return whether layers keep their inputs only and compute the rest again in the backward pass."""
        return bool(getattr(self.plain, "is_activation_checkpointing", False))

    @property
    def num_parameters(self) -> int:
        """Return how many weights the model has, adapters included and shared ones counted once."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def eos_id(self) -> int:
        """Return the token that ends a response."""
        return int(self.tokenizer.eos_token_id)

    @property
    def pad_id(self) -> int:
        """Return the token that fills up batches; it is always masked."""
        pad = self.tokenizer.pad_token_id
        return self.eos_id if pad is None else int(pad)

    @property
    def context_limit(self) -> int | None:
        """Return the longest sequence the model was made for; None when its positions are relative (T5)."""
        if self.family == "seq2seq":
            return None
        return getattr(self.plain.config.get_text_config(), "max_position_embeddings", None)


def set_threads_and_seed(seed: int) -> None:
    """Fix everything that could make the same stage give other bytes: seeds, thread count, kernels.

    `RSO_THREADS` sets the threads (the machine's default otherwise). Raises UserError when it is no number.
    """
    threads = os.environ.get("RSO_THREADS", "")
    if threads:
        if not threads.isdigit() or int(threads) < 1:
            message = f"RSO_THREADS must be a number of threads, 1 or more, got {threads!r}; correct or unset it"
            raise UserError(message)
        torch.set_num_threads(int(threads))
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries that draw from numpy's global state
    torch.manual_seed(seed)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with this
    torch.use_deterministic_algorithms(True)
    # Filling fresh memory would hide reads of what was never written; nothing here does that, and it takes time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # What is left of scaled dot-product attention (flash, math) has a deterministic backward pass.
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(False)


def read_config(folder: Path) -> Any:
    """Return the model configuration in `folder`. Raises UserError when there is none that can serve."""
    if not (folder / "config.json").is_file():
        message = (
            f"{folder.name}: a model folder must hold config.json, found {_listing(folder)}; point at the folder itself"
        )
        raise UserError(message)
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, KeyError, OSError, TypeError) as error:
        message = (
            f"{folder.name}/config.json names no architecture this product knows (remote code is never run): {error}"
        )
        raise UserError(message) from error


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())[:8] if folder.is_dir() else []
    return ", ".join(names) or "nothing"


def family_of(config: Any) -> Family:
    """Return the family of a configuration. Raises UserError for encoders and other architectures."""
    if config.model_type in T5_FAMILY:
        return "seq2seq"
    decoder_only = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not config.is_encoder_decoder
    # BERT and its kin are also listed as causal models; what they were trained as is masked.
    if decoder_only and config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return "causal"
    message = (
        f"a policy or reward model needs a decoder-only or T5-family model, got {config.model_type!r}; "
        f"choose for example a Llama-, Qwen-, GPT- or T5-type model"
    )
    raise UserError(message)


def require_safetensors(folder: Path) -> None:
    """Raise UserError unless `folder` holds safetensors weights."""
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
    if pickled:
        message = (
            f"{folder.name} holds only pickled weights ({', '.join(pickled)}), which can run code when read; "
            f"save the model as safetensors (save_pretrained) and import that"
        )
    else:
        message = f"{folder.name} holds no weights: *.safetensors is required, found {_listing(folder)}"
    raise UserError(message)


def load_tokenizer(folder: Path) -> tuple[Any, Family]:
    """Return the tokenizer in `folder` and the family of its model. Raises UserError when it cannot serve."""
    family = family_of(read_config(folder))
    if not any(
        (folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
    ):
        message = f"{folder.name} has no tokenizer: tokenizer.json is required, found {_listing(folder)}; copy it beside the weights"
        raise UserError(message)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, KeyError, OSError, TypeError) as error:
        message = f"the tokenizer in {folder.name} cannot be read: {error}; copy the folder again, whole"
        raise UserError(message) from error
    return check_tokenizer(tokenizer, folder.name), family


def check_tokenizer(tokenizer: Any, name: str) -> Any:
    """Return `tokenizer` when responses can end with it. Raises UserError otherwise."""
    if tokenizer.eos_token_id is None:
        message = f"the tokenizer of {name} has no end-of-sequence token (eos_token), without which no response ends; set it in tokenizer_config.json"
        raise UserError(message)
    if not tokenizer.is_fast:
        message = f"the tokenizer of {name} is not a fast one: tokenizer.json is required; save it with a current version of transformers"
        raise UserError(message)
    return tokenizer


def load(folder: Path, *, dtype: str = "auto", dropout: float = 0.0) -> LanguageModel:
    """Return the model in `folder` in evaluation mode, on the GPU where there is one.

    `dtype` "auto": bfloat16 on CUDA, float32 on CPU. Every dropout of the configuration is set to `dropout`.
    The attention is PyTorch's scaled dot product: exact, and deterministic under `set_threads_and_seed`.
    Raises UserError for a folder that cannot serve.
    """
    config = read_config(folder)
    family = family_of(config)
    tokenizer, _ = load_tokenizer(folder)
    require_safetensors(folder)
    _set_dropout(config, dropout)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_weights(folder, family, config=config, dtype=_dtype(dtype, device)).to(device).eval()
    return check_vocabulary(LanguageModel(model, tokenizer, family), folder.name)


def check_vocabulary(lm: LanguageModel, name: str) -> LanguageModel:
    """Return `lm` when its model knows every token of its tokenizer. Raises UserError otherwise."""
    known = lm.plain.get_input_embeddings().num_embeddings
    if len(lm.tokenizer) > known:
        message = f"the tokenizer of {name} has {len(lm.tokenizer)} tokens, its model only {known}; they do not belong together"
        raise UserError(message)
    return lm


def auto_class(family: Family) -> Any:
    """Return the transformers class that loads a family."""
    return AutoModelForCausalLM if family == "causal" else AutoModelForSeq2SeqLM


def load_weights(folder: Path, family: Family, **options: Any) -> Any:
    """Return the bare transformers model. Raises UserError when weights are missing or do not fit."""
    try:
        model, found = auto_class(family).from_pretrained(
            folder,
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
            attn_implementation=attention_of(read_config(folder)),
            output_loading_info=True,
            **options,
        )
    except (ValueError, KeyError, OSError, RuntimeError, SafetensorError) as error:
        message = f"the weights in {folder.name} cannot be read: {error}; copy the folder again, whole"
        raise UserError(message) from error
    if found["missing_keys"]:
        some = ", ".join(sorted(found["missing_keys"])[:5])
        message = f"{folder.name} lacks weights of its architecture ({some}); they would be random. Import a complete language model"
        raise UserError(message)
    _forget_sampling_defaults(model)
    make_lean(model)
    return model


def attention_of(config: Any) -> str:
    """Return the attention that computes a model exactly: only the eager one knows soft caps (Gemma 2)."""
    return "eager" if getattr(config.get_text_config(), "attn_logit_softcapping", None) else ATTENTION


def _forget_sampling_defaults(model: Any) -> None:
    """Drop temperature, penalties and the like, so that no saved default can override a run's settings."""
    old = model.generation_config
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    model.generation_config = GenerationConfig(**{name: getattr(old, name, None) for name in names})


def dropouts(config: Any) -> dict[str, float]:
    """Return every dropout rate of a configuration by its name."""
    named = {name: v for name, v in config.to_dict().items() if "dropout" in name or name.endswith("pdrop")}
    return {name: v for name, v in named.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def _set_dropout(config: Any, dropout: float) -> None:
    for name in dropouts(config):
        setattr(config, name, dropout)


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if name not in known:
        message = f"`dtype` must be auto, float32 or bfloat16, got {name!r}"
        raise ValueError(message)
    return known[name]


def save(lm: LanguageModel, folder: Path) -> None:
    """Write weights (safetensors), configuration and tokenizer; the same weights give the same bytes."""
    if hasattr(lm.model, "get_base_model"):
        message = "merge the adapters (merge_lora) before saving"
        raise ValueError(message)
    folder.mkdir(parents=True, exist_ok=True)
    _forget_sampling_defaults(lm.model)
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)  # written for their owner only; the web process may be another user


def linear_layers(model: Any) -> list[str]:
    """Return the names of all linear layers of attention and MLP: every linear layer but the output embedding."""
    head = model.get_output_embeddings()
    kinds = {"Linear", "Conv1D"}  # GPT-2 writes its linear layers as Conv1D
    return [name for name, part in model.named_modules() if type(part).__name__ in kinds and part is not head]


def add_lora(lm: LanguageModel, *, rank: int, alpha: float, seed: int) -> LanguageModel:
    """Return `lm` with low-rank adapters on all linear layers; only they are trained.

    They start as the identity (B = 0; A drawn from `seed`), so the step-0 loss is that of the base model.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=linear_layers(lm.model))
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers a question by its old name
        torch.manual_seed(seed)
        return replace(lm, model=get_peft_model(lm.model, config).eval())


def merge_lora(lm: LanguageModel) -> LanguageModel:
    """Return a plain model with the adapters added into the weights. Changes `lm`'s own weights."""
    return replace(lm, model=lm.model.merge_and_unload())


def tokenizer_digest(tokenizer: Any) -> str:
    """Return the identifier of what `tokenizer` does to text; its chat template is not part of it."""
    ids = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
    text = canonical_json([tokenizer.backend_tokenizer.to_str(), ids])
    return hashlib.sha256(text.encode()).hexdigest()


def describe(folder: Path) -> dict[str, Any]:
    """Return what people want to know about the model in `folder`; reads headers, not weights."""
    config = read_config(folder)
    tokenizer, family = load_tokenizer(folder)
    require_safetensors(folder)
    parameters, dtypes = 0, set()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - not a mapping
                part = weights.get_slice(name)
                parameters += int(np.prod(part.get_shape()))
                dtypes.add(part.get_dtype())
    return {
        "family": family,
        "architecture": config.model_type,
        "parameters": parameters,
        "vocabulary": len(tokenizer),
        "chat_template": bool(tokenizer.chat_template),
        "tokenizer_digest": tokenizer_digest(tokenizer),
        "eos": tokenizer.eos_token,
        "pad": tokenizer.pad_token,
        "dtype": "+".join(sorted(dtypes)),
        "context_limit": getattr(config.get_text_config(), "max_position_embeddings", None)
        if family == "causal"
        else None,
    }
