"""From token ids to token ids and text: requests in, scheduled steps on a backend, deltas out."""
