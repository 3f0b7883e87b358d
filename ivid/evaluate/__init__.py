"""How well clips show what was asked: measures on generated clips."""
