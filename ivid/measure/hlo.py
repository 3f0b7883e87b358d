"""Reads the text of a compiled TPU program: the compiler's cycle estimates, and the bytes that pass over the links between chips."""

from __future__ import annotations

import collections
import dataclasses
import math
import re

from ivid.spec.errors import UserError

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
SCATTERS = "all-reduce-scatter"  # the name that TPU programs give to an all-reduce fused with the slice that follows it
BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_OPCODE = re.compile(r"(?:^|[\s)}\]])([a-z][a-z0-9\-]*)\(")
_CALLED = re.compile(r"(body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONSTANT = re.compile(r"^s32\[\]\S* constant\((\d+)\)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_SHAPE = re.compile(r"\b([a-z][a-z0-9]*)\[([\d,]*)\]")
# The groups of chips in a collective: the number and size of groups, the list of the first group, or named axes of a mesh.
_GROUPS = re.compile(r"replica_groups=(?:\[\d+,(\d+)\]|\{\{([\d,]+)\}|mesh\[([^\]]*)\][^{]*\{([^}]*)\})")
_AXIS = re.compile(r"'(\w+)'=(\d+)")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_BETWEEN_SLICES = re.compile(r'_xla_megascale_transfer_type="(\w+)"')


@dataclasses.dataclass(frozen=True)
class Instruction:
  opcode: str
  result_bytes: int
  group: int  # chips in a collective; 0 if the program does not say
  cycles: int
  trips: int | None  # of a while loop, if the loop states it
  constant: int | None  # the value, if this is an integer constant
  called: tuple[tuple[str, str], ...]  # (attribute, computation)
  op_name: str
  transfer: str  # what a send to another slice is part of, such as all-reduce; empty for all others


@dataclasses.dataclass(frozen=True)
class ProgramCost:
  """The cost of running a program once, on one chip.

  Attributes:
    cycles: sum of the compiler's estimates, each multiplied by the trip counts of the loops around it. The compiler's model is static: it
      counts neither collectives nor waiting.
    collectives: per kind, the number of calls, the bytes that are gathered, reduced or passed on, and the bytes that each chip of a ring
      sends.
    between_slices: per kind, the number of transfers over the network between slices, and the bytes that this chip sends in them.
    where: cycles per place in the model, largest first.
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
  """Bytes that each of n chips on a ring sends: (n - 1) / n of what is gathered, scattered or exchanged, and twice that for an all-reduce.

  If the program does not say which chips take part, `chips` is 0 and n is taken to be large.
  """
  if kind == "collective-permute":
    return size
  share = (chips - 1) / chips if chips else 1.0
  return round((2 if kind == "all-reduce" else 1) * size * share)


def place(instruction: Instruction) -> str:
  """The primitive and its innermost module, without the loops and transformations around them."""
  parts = [part for part in instruction.op_name.split("/") if part]
  if not parts:
    return instruction.opcode
  plain = ("while", "body", "closed_call", "checkpoint", "rematted_computation", "jit", "transpose", "jvp", "cond", "branch")
  names = [part for part in parts[:-1] if not part.startswith(plain)]
  backward = "backward " if "transpose(jvp" in instruction.op_name else ""
  return f"{backward}{parts[-1]} in {names[-1].rpartition('.')[2] if names else 'the step'}"


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
  """The instructions of each computation, and the name of the entry computation.

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
    sizes = sizes[1:2]  # its result lists the operand first, then the output, then what signals completion
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
  """How often each computation runs, and whether its instructions are scheduled individually, not as parts of a fusion."""
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
  """Trip count of a while loop: as stated, or the number that its condition compares the counter with (jax.lax.scan counts from 0)."""
  if loop.trips is not None:
    return loop.trips
  conditions = [name for attribute, name in loop.called if attribute == "condition"]
  limits = [i.constant for name in conditions for i in computations.get(name, ()) if i.constant is not None]
  return max(limits, default=1)
