"""What is done when training meets values that are not finite."""
