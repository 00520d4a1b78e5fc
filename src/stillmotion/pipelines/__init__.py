"""From a condition to frames: one file per kind of generation. Touches no file, prints nothing."""
