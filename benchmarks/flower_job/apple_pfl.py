"""The job under Apple's pfl: ``torchrun --nproc-per-node N -m benchmarks.flower_job.apple_pfl CONFIG OUT``.

Writes the same files as `benchmarks.flower_job.simulate`. Each of the N processes has one thread, holds the model for
the whole run and trains its part of the cohort.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel, get_peft_model_state_dict
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchDataDataset
from pfl.data.sampling import MinimizeReuseUserSampler
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.flower_job.recipe import Work, build, cohort_order, cohort_size, collate, loss_of, work
from polyrank.core.seeds import derive


class Trained(nn.Module):
    """The model with the two methods that pfl calls."""

    def __init__(self, peft: PeftModel) -> None:
        super().__init__()
        self.peft = peft

    def loss(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Tensor:
        """What a step minimises."""
        self.peft.train()
        return loss_of(self.peft, (input_ids, attention_mask, labels))

    @torch.no_grad()
    def metrics(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Weighted]:
        """What pfl measures in its first round, whatever the settings."""
        self.peft.eval()
        loss = loss_of(self.peft, (input_ids, attention_mask, labels)).item()
        return {"loss": Weighted(loss * len(labels), len(labels))}


class Stamps(TrainingProcessCallback):
    """Notes when each round is done."""

    def __init__(self) -> None:
        self.times = [time.perf_counter()]

    def after_central_iteration(self, *_: Any, **__: Any) -> tuple[bool, Metrics]:  # Any: pfl's own arguments
        self.times.append(time.perf_counter())
        return False, Metrics()


def dataset(job: Work, client: int) -> PyTorchDataDataset:
    """A client's examples: shuffled, each batch padded to its longest text."""
    examples = job.clients[client]
    together = functools.partial(collate, examples)
    return PyTorchDataDataset(range(len(examples)), str(client), shuffle=True, collate_fn=together)


def main() -> None:
    """Run the job once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="TOML file of the job")
    parser.add_argument("out", type=Path, help="folder for the results")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    job = work(str(chosen.config))
    config, options = job.config, job.config.training
    rank = int(os.environ.get("RANK", "0"))
    trained = Trained(build(str(chosen.config)))
    np.random.seed(config.federation.seed % 2**32)  # pfl draws with the global generator
    torch.manual_seed(derive(config.federation.seed, "dropout", rank))
    trainable = [parameter for parameter in trained.parameters() if parameter.requires_grad]
    model = PyTorchModel(
        model=trained,
        local_optimizer_create=lambda _, lr: torch.optim.AdamW(trainable, lr=lr, weight_decay=options.weight_decay),
        central_optimizer=torch.optim.SGD(trainable, lr=1.0),  # the mean of the clients' models
    )
    clients = FederatedDataset(lambda client: dataset(job, client), MinimizeReuseUserSampler(cohort_order(job)))
    stamps = Stamps()
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=config.federation.rounds,
            evaluation_frequency=config.federation.rounds,
            train_cohort_size=cohort_size(config),
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(training_data=clients, val_data=clients, postprocessors=[WeightByDatapoints()]),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_batch_size=options.batch_size, local_num_epochs=options.epochs, local_learning_rate=options.lr
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=options.batch_size),
        callbacks=[stamps],
    )
    if rank == 0:
        seconds = [after - before for before, after in zip(stamps.times, stamps.times[1:], strict=False)]
        tensors = {name: tensor.contiguous() for name, tensor in get_peft_model_state_dict(trained.peft).items()}
        save_file(tensors, chosen.out / "adapter.safetensors")
        (chosen.out / "rounds.json").write_text(json.dumps(seconds) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
