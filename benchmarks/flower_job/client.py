"""The job's Flower ClientApp."""

from __future__ import annotations

import functools

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from peft import get_peft_model_state_dict, set_peft_model_state_dict

from benchmarks.flower_job.recipe import build, fit, work

app = ClientApp()
kept = functools.cache(build)
"""The model of a process, built once; Ray keeps an actor's process for the whole run."""


@app.train()
def train(message: Message, context: Context) -> Message:
    """One client's local training.

    The configuration says where the job is, whether the base model is kept in the process or built for this message,
    and how many threads an actor has.
    """
    sent = message.content["config"]
    arrays = message.content["arrays"]
    assert isinstance(sent, ConfigRecord)
    assert isinstance(arrays, ArrayRecord)
    torch.set_num_threads(int(sent["threads"]))  # type: ignore[arg-type]  # it was sent as an int
    path, client = str(sent["path"]), int(context.node_config["partition-id"])
    job = work(path)
    model = kept(path) if sent["keep"] else build(path)
    set_peft_model_state_dict(model, arrays.to_torch_state_dict())
    examples = job.clients[client]
    loss = fit(model, examples, job.config, job.seed(int(sent["server-round"]), client))  # type: ignore[arg-type]
    content = RecordDict(
        {
            "arrays": ArrayRecord(get_peft_model_state_dict(model)),
            "metrics": MetricRecord({"loss": loss, "num-examples": len(examples)}),
        }
    )
    return Message(content=content, reply_to=message)
