"""What is learned: how texts become examples and batches, the loss, the metrics; one file per task, one registry."""

from polyrank.tasks.metric import Metric
from polyrank.tasks.registry import TASKS, settled, task
from polyrank.tasks.task import Task

__all__ = ["TASKS", "Metric", "Task", "settled", "task"]
