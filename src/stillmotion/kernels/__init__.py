"""What the processor computes by our own compiled code; C beside it, built with the package."""
