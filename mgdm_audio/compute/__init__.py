"""Where work runs: this process, others, a cluster."""
