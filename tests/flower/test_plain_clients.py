"""What plain clients measure and answer, at the ends of what a float holds and a line should."""

from __future__ import annotations

import pytest
from flwr.app import Array, Context, Message, MetricRecord

from polyrank.flower import RankStrategy
from tests.flower.conftest import InProcess
from tests.flower.test_strategy import grid, start


def measuring(nodes: InProcess, **metrics: float) -> InProcess:
    """Nodes that say all the same beside their number of examples."""
    app = nodes.app

    def answer(message: Message, context: Context) -> Message:
        reply = app(message, context)
        if message.metadata.message_type == "train":
            reply.content["metrics"] = MetricRecord({"num-examples": context.node_id, **metrics})
        return reply

    nodes.changed = dict.fromkeys(nodes.contexts, answer)
    return nodes


def test_a_mean_of_the_largest_numbers_is_no_infinity():
    """Three clients measure 1e308, and so does their mean; 11 * 1e308 is beyond any float."""
    metrics = start(RankStrategy(), measuring(grid(), train_loss=1e308), rounds=1).train_metrics_clientapp[1]
    assert metrics["train_loss"] == pytest.approx(1e308)


def test_a_name_of_an_array_is_a_line_in_the_log(caplog: pytest.LogCaptureFixture):
    nodes = grid()

    def answer(message: Message, context: Context) -> Message:
        reply = nodes.app(message, context)
        if message.metadata.message_type == "train":
            arrays = reply.content.array_records["arrays"]
            arrays["\x1b[2J\nround 1: all is well"] = Array(arrays["classifier.weight"].numpy())
        return reply

    nodes.changed[12] = answer
    start(RankStrategy(), nodes, rounds=1)
    said = [record.getMessage() for record in caplog.records if "unknown ones" in record.getMessage()]
    assert said
    assert all(line.isprintable() for line in said)
