"""What a task costs, side by side with what else could be had on this machine in the same minutes."""
