"""The commands: `ivid NAME` runs main(argv) of NAME.py. Flags and a call, nothing more."""
