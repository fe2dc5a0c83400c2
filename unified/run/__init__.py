"""What the commands do: one file a command, over the same pieces."""
