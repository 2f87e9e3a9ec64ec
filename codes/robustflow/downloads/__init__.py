"""Files that others publish, fetched when asked for: which and from where, the transfer, what is taken of archives."""
