"""Weights on disk: what their tensors are called, how they are read and written, and whole models of both layouts."""
