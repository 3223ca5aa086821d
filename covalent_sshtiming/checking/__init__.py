"""A machine looked at step by step, by the way that an electron goes."""
