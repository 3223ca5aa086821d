"""What the figures are worth: their accuracy against the kernel's, and what taking them costs."""
