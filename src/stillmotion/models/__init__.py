"""Networks: configuration in, plain nn.Module out. They never choose a device or a dtype."""
