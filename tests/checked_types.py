"""Shapes and types checked: `PYTHONPATH=src:tests pytest --jaxtyping-packages=stillmotion,checked_types.checked`."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

# An int is a float here, as it is for every static checker (PEP 484).
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
