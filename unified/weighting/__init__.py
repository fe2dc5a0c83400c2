"""How the tasks' losses become one loss."""
