"""Commands under the names they had: what `robustflow.interop` is searched for after its own."""
