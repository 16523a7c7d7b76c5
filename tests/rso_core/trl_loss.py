"""Print the loss that TRL's DPOTrainer has on an exported dataset. Run by the environment of `make bench-peers`.

Arguments: dataset folder, policy folder, reference folder, TRL's loss type, beta, numbers of the batch's pairs (1,2,3).
"""

import sys
import tempfile
import warnings

import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer


def main() -> None:
    folder, policy, reference, loss_type, beta, pairs = sys.argv[1:]
    warnings.simplefilter("ignore")
    cache = tempfile.mkdtemp()
    dataset = load_dataset(folder, split="train", cache_dir=cache).select([int(number) for number in pairs.split(",")])
    load = AutoModelForCausalLM.from_pretrained
    trainer = DPOTrainer(
        model=load(policy, dtype=torch.float32),
        ref_model=load(reference, dtype=torch.float32),
        args=DPOConfig(
            output_dir=cache, use_cpu=True, bf16=False, beta=float(beta), loss_type=[loss_type], max_length=None,
            per_device_train_batch_size=len(dataset), disable_dropout=True, report_to="none", disable_tqdm=True,
            gradient_checkpointing=False,
        ),
        train_dataset=dataset,
        processing_class=AutoTokenizer.from_pretrained(policy),
    )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        print("loss", float(trainer.compute_loss(trainer.model, batch)))  # noqa: T201 - what it is run for


main()
