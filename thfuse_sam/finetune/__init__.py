"""Training and evaluating SAM on annotated images."""
