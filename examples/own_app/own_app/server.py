"""The server: FedAvg's place is taken by `RankStrategy`."""

from __future__ import annotations

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from peft import get_peft_model_state_dict, set_peft_model_state_dict

from own_app.task import accuracy, data, make_model
from polyrank.flower import RankStrategy

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Rounds, and the accuracy after each."""
    config = context.run_config
    model = make_model(len(data().train.label_names), int(config["rank"]), scale=2.0)  # the highest rank of any client

    def evaluate(_: int, arrays: ArrayRecord) -> MetricRecord:
        set_peft_model_state_dict(model, arrays.to_torch_state_dict())
        return MetricRecord({"accuracy": accuracy(model, int(config["examples"]))})

    RankStrategy("replication").start(
        grid,
        ArrayRecord.from_torch_state_dict(get_peft_model_state_dict(model)),
        num_rounds=int(config["rounds"]),
        evaluate_fn=evaluate,
    )
