"""Reads what a compiled TPU program says of itself: the compiler's cycle estimates, and what goes over the links between chips."""

from __future__ import annotations

import collections
import dataclasses
import math
import re

from ivid.spec.errors import UserError

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
SCATTERS = "all-reduce-scatter"  # how TPU programs name the fusion of an all-reduce and the slice that is left of it
BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_OPCODE = re.compile(r"(?:^|[\s)}\]])([a-z][a-z0-9\-]*)\(")
_CALLED = re.compile(r"(body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONSTANT = re.compile(r"^s32\[\]\S* constant\((\d+)\)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_SHAPE = re.compile(r"\b([a-z][a-z0-9]*)\[([\d,]*)\]")
# Of the chips that take part in one collective: so many groups of so many, the first group's list, or named axes of a mesh.
_GROUPS = re.compile(r"replica_groups=(?:\[\d+,(\d+)\]|\{\{([\d,]+)\}|mesh\[([^\]]*)\][^{]*\{([^}]*)\})")
_AXIS = re.compile(r"'(\w+)'=(\d+)")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_BETWEEN_SLICES = re.compile(r'_xla_megascale_transfer_type="(\w+)"')


@dataclasses.dataclass(frozen=True)
class Instruction:
  opcode: str
  result_bytes: int
  group: int  # chips in a collective; 0 where it does not say
  cycles: int
  trips: int | None  # of a while loop, where it says so itself
  constant: int | None  # value of a whole number
  called: tuple[tuple[str, str], ...]  # (attribute, computation)
  op_name: str
  transfer: str  # what a send to another slice is part of, such as all-reduce; empty for all others


@dataclasses.dataclass(frozen=True)
class ProgramCost:
  """Of one run of a program on one chip.

  Attributes:
    cycles: the compiler's estimates, each times the trips of the loops around it. Its static model: no collective, no waiting.
    collectives: by kind, how many run, the bytes of what is gathered, reduced or passed on, and of these what passes a chip on a ring.
    between_slices: by kind, how many transfers cross the network between slices, and the bytes that this chip sends in them.
    where: cycles by the operation's place in the model, the largest first.
  """

  cycles: int
  collectives: dict[str, tuple[int, int, int]]
  between_slices: dict[str, tuple[int, int]]
  where: dict[str, int]


def program_cost(text: str) -> ProgramCost:
  """Costs from the text of a compiled program (`compiled.as_text()`)."""
  computations, entry = parse(text)
  cycles, where = 0, collections.Counter()
  collectives: dict[str, tuple[int, int, int]] = {}
  between: dict[str, tuple[int, int]] = {}
  for name, (runs, top) in _runs(computations, entry).items():
    for instruction in computations[name]:
      kind = instruction.opcode.removesuffix("-start")
      if kind in COLLECTIVES:
        size, chips = instruction.result_bytes, instruction.group
        if kind == "all-reduce" and name.startswith(SCATTERS):
          kind = "reduce-scatter"
        elif kind == "reduce-scatter":
          size *= max(chips, 1)
        before = collectives.get(kind, (0, 0, 0))
        collectives[kind] = before[0] + runs, before[1] + runs * size, before[2] + runs * ring_bytes(kind, size, chips)
      if instruction.transfer:
        count, sent = between.get(instruction.transfer, (0, 0))
        between[instruction.transfer] = count + runs, sent + runs * instruction.result_bytes
      if top and instruction.cycles and instruction.opcode != "while":
        cycles += runs * instruction.cycles
        where[place(instruction)] += runs * instruction.cycles
  return ProgramCost(cycles, collectives, between, dict(where.most_common()))


def ring_bytes(kind: str, size: int, chips: int) -> int:
  """Bytes that each of n chips on a ring passes on: (n - 1) / n of what is gathered, scattered or exchanged, twice that to reduce for all.

  `chips` is 0 where the program does not say who takes part, and n then large.
  """
  if kind == "collective-permute":
    return size
  share = (chips - 1) / chips if chips else 1.0
  return round((2 if kind == "all-reduce" else 1) * size * share)


def place(instruction: Instruction) -> str:
  """The primitive, and the modules it stands in without the loops and transformations around it."""
  parts = [part for part in instruction.op_name.split("/") if part]
  if not parts:
    return instruction.opcode
  plain = ("while", "body", "closed_call", "checkpoint", "rematted_computation", "jit", "transpose", "jvp", "cond", "branch")
  names = [part for part in parts[:-1] if not part.startswith(plain)]
  backward = "backward " if "transpose(jvp" in instruction.op_name else ""
  return f"{backward}{parts[-1]} in {names[-1].rpartition('.')[2] if names else 'the step'}"


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
  """Instructions by computation, and the name of the entry.

  Raises:
    UserError: no entry computation in the text.
  """
  computations: dict[str, list[Instruction]] = {}
  entry, here = "", None
  for line in text.splitlines():
    start = _COMPUTATION.match(line)
    if start:
      here = computations.setdefault(start[2], [])
      entry = start[2] if start[1] else entry
    elif here is not None and " = " in line:
      here.append(_instruction(line))
  if not entry:
    raise UserError("no entry computation: expected the text of a compiled program")
  return computations, entry


def _instruction(line: str) -> Instruction:
  body = line.split(" = ", 1)[1]
  constant = _CONSTANT.match(body)
  opcode = _OPCODE.search(body)
  result = body[: opcode.start(1)] if opcode else body
  sizes = [_shape_bytes(kind, sides) for kind, sides in _SHAPE.findall(result)]
  if opcode and opcode[1].endswith("-start") and opcode[1] != "all-reduce-start":
    sizes = sizes[1:2]  # its result names the operand first, and after it what it waits by
  sent = _BETWEEN_SLICES.search(body) if opcode and opcode[1] == "send" else None
  if sent:
    sizes = sizes[:1]  # what is sent, and after it a number and a token
  called = [(attribute, name) for attribute, name in _CALLED.findall(body)]
  for names in _BRANCHES.findall(body):
    called += [("branch", name.strip().lstrip("%")) for name in names.split(",")]
  group = _GROUPS.search(body)
  trips, cycles, op_name = _TRIPS.search(body), _CYCLES.search(body), _OP_NAME.search(body)
  return Instruction(
    opcode=opcode[1] if opcode else "",
    result_bytes=sum(sizes),
    group=_group_size(group) if group else 0,
    cycles=int(cycles[1]) if cycles else 0,
    trips=int(trips[1]) if trips else None,
    constant=int(constant[1]) if constant else None,
    called=tuple(called),
    op_name=op_name[1] if op_name else "",
    transfer=sent[1].lower().replace("_", "-") if sent else "",
  )


def _group_size(found: re.Match[str]) -> int:
  count, listed, axes, named = found.groups()
  if count or listed:
    return int(count) if count else len(listed.split(","))
  sizes = dict(_AXIS.findall(axes))
  return math.prod(int(sizes[name]) for name in re.findall(r"'(\w+)'", named))


def _shape_bytes(kind: str, sides: str) -> int:
  size = BYTES.get(kind, 0)
  for side in filter(None, sides.split(",")):
    size *= int(side)
  return size


def _runs(computations: dict[str, list[Instruction]], entry: str) -> dict[str, tuple[int, bool]]:
  """How often each computation runs, and whether its instructions are scheduled themselves (not as part of a fusion)."""
  found: dict[str, tuple[int, bool]] = {}
  waiting = [(entry, 1, True)]
  while waiting:
    name, runs, top = waiting.pop()
    before, was_top = found.get(name, (0, False))
    found[name] = before + runs, was_top or top
    for instruction in computations.get(name, ()):
      for attribute, called in instruction.called:
        if called not in computations or attribute in ("condition", "to_apply"):
          continue
        times = _trips(instruction, computations) if attribute == "body" else 1
        waiting.append((called, runs * times, top and (attribute != "calls" or instruction.opcode in ("call", "async-start"))))
  return found


def _trips(loop: Instruction, computations: dict[str, list[Instruction]]) -> int:
  """Turns of a while loop: its own word, or the number that its condition compares the counter with, as jax.lax.scan counts from 0."""
  if loop.trips is not None:
    return loop.trips
  conditions = [name for attribute, name in loop.called if attribute == "condition"]
  limits = [i.constant for name in conditions for i in computations.get(name, ()) if i.constant is not None]
  return max(limits, default=1)
