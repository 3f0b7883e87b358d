"""Figures about programs: dry runs, compile reports, bench."""
