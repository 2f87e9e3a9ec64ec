"""Commands under the names they had."""
