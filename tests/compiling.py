"""Compilation for tests: small programs that run once spend their time in the compiler, so it is told not to try hard."""

import contextlib

QUICK = ("--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true")


def xla_flags(devices: int, before: str = "") -> str:
  """XLA_FLAGS of a process with that many virtual devices; what `before` has of these flags stays."""
  flags = before.split()
  for flag in (f"--xla_force_host_platform_device_count={devices}", *QUICK):
    if not any(have.startswith(flag.partition("=")[0]) for have in flags):
      flags.append(flag)
  return " ".join(flags)


@contextlib.contextmanager
def compilations():
  """A list that grows by a name for each program that XLA is asked for, whether or not the cache on disk has it."""
  from jax import monitoring  # conftest sets jax's flags before anything imports it

  asked = []

  def listen(event, seconds, **about):
    del seconds
    if event == "/jax/core/compile/backend_compile_duration":
      asked.append(about.get("fun_name", "a program"))

  monitoring.register_event_duration_secs_listener(listen)
  try:
    yield asked
  finally:
    monitoring.unregister_event_duration_listener(listen)
