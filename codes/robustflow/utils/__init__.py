"""Small helpers that know nothing of flows or images."""
