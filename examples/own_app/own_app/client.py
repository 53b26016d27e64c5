"""A client: as with FedAvg, and the model has the rank that the server says."""

from __future__ import annotations

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from peft import get_peft_model_state_dict, set_peft_model_state_dict

from own_app.task import data, fit, make_model, part
from polyrank.flower import declare_rank

app = declare_rank(ClientApp())  # says lora-rank of the node's configuration


@app.train()
def train(message: Message, context: Context) -> Message:
    """One epoch on this client's part of the data."""
    config, run = message.content.config_records["config"], context.run_config
    model = make_model(len(data().train.label_names), int(config["lora-rank"]), float(config["lora-scale"]))
    set_peft_model_state_dict(model, message.content.array_records["arrays"].to_torch_state_dict())
    own = part(int(context.node_config["partition-id"]), int(run["examples"]))
    loss = fit(model, own, float(run["lr"]))
    examples = sum(len(batch["labels"]) for batch in own)
    arrays = ArrayRecord.from_torch_state_dict(get_peft_model_state_dict(model))
    metrics = MetricRecord({"num-examples": examples, "train_loss": loss})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
