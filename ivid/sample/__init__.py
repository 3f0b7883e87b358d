"""Running a cascade: its folder on disk, one stage's sampler, and the stages in order."""
