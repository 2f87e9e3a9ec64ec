"""Why samples explode, and which inputs are unlike the training set."""
