"""Who computes how many tokens in the next step: pure arithmetic, with no arrays, no I/O and no clock."""
