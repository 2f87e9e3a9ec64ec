"""Published checkpoints: read, checked, converted there and back."""
