"""Commands under the names they had: what `robustflow.options` is searched for after its own."""
