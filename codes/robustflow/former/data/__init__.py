"""Commands under the names they had: what `robustflow.data` is searched for after its own."""
