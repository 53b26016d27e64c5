"""The job under Flower's simulation: ``python -m benchmarks.flower_job.simulate CONFIG OUT --actors N [--keep]``.

Writes ``rounds.json``, the seconds of each round on the server, and ``adapter.safetensors`` to OUT.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterable
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from peft import get_peft_model_state_dict
from safetensors.torch import save_file

from benchmarks.flower_job.client import app as client_app
from benchmarks.flower_job.recipe import build, cohort_size
from polyrank.config import Config, load


class Timed(FedAvg):
    """FedAvg that notes when each round is aggregated, and stops at an error instead of averaging the rest."""

    def __init__(self, config: Config) -> None:
        cohort, clients = cohort_size(config), config.federation.clients or 1
        super().__init__(
            fraction_train=cohort / clients,
            fraction_evaluate=0.0,
            min_train_nodes=cohort,
            min_available_nodes=clients,
        )
        self.cohort = cohort
        self.stamps = [time.perf_counter()]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        arrived = list(replies)
        failed = [message.error.reason for message in arrived if message.has_error()]
        if failed or len(arrived) != self.cohort:
            raise RuntimeError(f"round {server_round}: {len(arrived)} of {self.cohort} replies; {failed}")
        result = super().aggregate_train(server_round, arrived)
        self.stamps.append(time.perf_counter())
        return result


def main() -> None:
    """Run the job once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="TOML file of the job")
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument("--actors", type=int, required=True, help="Ray actors, of one processor each")
    parser.add_argument("--keep", action="store_true", help="keep the base model in each actor")
    chosen = parser.parse_args()
    config = load(chosen.config)
    server_app = ServerApp()

    @server_app.main()
    def serve(grid: Grid, context: Context) -> None:  # noqa: ARG001  # Flower passes both
        random.seed(config.federation.seed)  # Flower samples with the global generator
        start = ArrayRecord(get_peft_model_state_dict(build(str(chosen.config))))
        strategy = Timed(config)
        result = strategy.start(
            grid=grid,
            initial_arrays=start,
            num_rounds=config.federation.rounds,
            train_config=ConfigRecord({"path": str(chosen.config), "keep": chosen.keep, "threads": 1}),
        )
        seconds = [after - before for before, after in zip(strategy.stamps, strategy.stamps[1:], strict=False)]
        tensors = {name: tensor.contiguous() for name, tensor in result.arrays.to_torch_state_dict().items()}
        save_file(tensors, chosen.out / "adapter.safetensors")
        (chosen.out / "rounds.json").write_text(json.dumps(seconds) + "\n", encoding="utf-8")

    run_simulation(
        server_app=server_app,
        client_app=client_app,
        num_supernodes=config.federation.clients or 1,
        backend_config={
            "init_args": {"num_cpus": chosen.actors},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )


if __name__ == "__main__":
    main()
