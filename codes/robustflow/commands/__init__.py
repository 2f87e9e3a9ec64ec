"""The commands of `robustflow`, a module each: its one parser, and the call of the work."""
