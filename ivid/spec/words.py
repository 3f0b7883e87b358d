"""Numbers and times as messages say them."""


def counted(number: int, unit: str) -> str:
  """A number with its unit, in the plural unless it is 1."""
  return f"{number} {unit}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
  """A time in the unit that suits it: 45 s, 12 min, 3.5 h or 12 days."""
  if seconds < 90:
    return f"{seconds:.0f} s"
  if seconds < 90 * 60:
    return f"{seconds / 60:.0f} min"
  if seconds < 48 * 3600:
    return f"{seconds / 3600:.1f} h"
  return f"{seconds / 86400:.0f} days"
