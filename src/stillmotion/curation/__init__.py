"""Curation: from videos as they are found to clips that a model may learn from."""
