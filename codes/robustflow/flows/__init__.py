"""The conditional multi-scale flow."""

from robustflow.flows.builder import build
from robustflow.flows.condition import Condition
from robustflow.flows.conditional_flow import ConditionalFlow, Encoding

__all__ = ["Condition", "ConditionalFlow", "Encoding", "build"]
