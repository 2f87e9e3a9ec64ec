"""The conditional multi-scale flow."""

from robustflow.flows.builder import build
from robustflow.flows.conditional_flow import Condition, ConditionalFlow, Encoding

__all__ = ["Condition", "ConditionalFlow", "Encoding", "build"]
