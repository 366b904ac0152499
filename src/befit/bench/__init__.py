"""Measuring: servers over HTTP, the engine in this process, kernels against this machine's limits, start-up, peers."""
