"""Tasks: what is specific to a problem."""

from robustflow.options.schema import RunOptions
from robustflow.registry import TASKS
from robustflow.tasks.base import FlowInputs, FlowTask, Task
from robustflow.tasks.encoder_pretraining import EncoderPretraining
from robustflow.tasks.low_light import LLFlow
from robustflow.tasks.super_resolution import SuperResolution

__all__ = ["EncoderPretraining", "FlowInputs", "FlowTask", "LLFlow", "SuperResolution", "Task", "build"]


def build(options: RunOptions) -> Task:
    """Build the task that ``model`` names."""
    task: Task = TASKS.build(options.model, scale=options.scale)
    task.cuda_graphs = options.cuda_graphs == "auto"
    return task
