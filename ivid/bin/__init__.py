"""Command-line binaries: flags and a call."""
