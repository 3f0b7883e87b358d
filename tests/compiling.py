"""Compilation for tests: small programs that run once spend their time in the compiler, so it is told not to try hard."""

QUICK = ("--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true")


def xla_flags(devices: int, before: str = "") -> str:
  """XLA_FLAGS of a process with that many virtual devices; what `before` has of these flags stays."""
  flags = before.split()
  for flag in (f"--xla_force_host_platform_device_count={devices}", *QUICK):
    if not any(have.startswith(flag.partition("=")[0]) for have in flags):
      flags.append(flag)
  return " ".join(flags)
