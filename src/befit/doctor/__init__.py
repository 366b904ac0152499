"""What this machine is, what would run well on it, and what is wrong: gathered, judged, advised."""
