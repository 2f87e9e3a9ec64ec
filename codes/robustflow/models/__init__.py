"""Tasks: what is specific to a problem."""

from robustflow.models.base import FlowInputs, FlowTask, Task
from robustflow.models.low_light import LLFlow
from robustflow.models.rrdb import EncoderPretraining
from robustflow.models.super_resolution import SuperResolution
from robustflow.options.schema import RunOptions
from robustflow.registry import TASKS

__all__ = ["EncoderPretraining", "FlowInputs", "FlowTask", "LLFlow", "SuperResolution", "Task", "build"]


def build(options: RunOptions) -> Task:
    """Build the task that ``model`` names."""
    task: Task = TASKS.build(options.model, scale=options.scale)
    task.cuda_graphs = options.cuda_graphs == "auto"
    return task
