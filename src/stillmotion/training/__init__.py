"""Training in plain PyTorch: toys and data in, weights out; a run resumes to the same weights."""
