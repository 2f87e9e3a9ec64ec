"""Commands under the names they had: what `robustflow.evaluation` is searched for after its own."""
