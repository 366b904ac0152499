"""Who may ask, how much, and for how long: in front of every protocol."""
