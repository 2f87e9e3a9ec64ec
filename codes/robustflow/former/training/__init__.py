"""Commands under the names they had: what `robustflow.training` is searched for after its own."""
