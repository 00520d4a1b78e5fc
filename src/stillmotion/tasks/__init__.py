"""What a person asks for: files in, files out."""
