"""Time of a training step and of a forward pass: ivid's VideoUNet against imagen-pytorch's Unet3D of the same size.

One process each, pinned to the same cores; they take turns (A B A B ...), the other one waiting, so that both see the same machine.
Same batch, input [2, 8, 24, 40, 3], text [2, 16, 64], float32, no patching, 32, 64 and 128 channels at strides 1, 2 and 4, attention over
time and to the text at all of them and over space at the lowest. A training step is mean squared error, gradient and Adam.

  pip install '.[peers]'
  python tests/peers/imagen_pytorch_speed.py --rounds=15

imagen-pytorch reads the width of a T5 from the network when it is imported; it is told one here instead. Its padding of captions to 256
tokens is lowered to the 16 there are. Each `--match` pairs a setting of its attention heads with a VideoUNet of as many parameters.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.machinery
import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
import types

BATCH, FRAMES, HEIGHT, WIDTH = 2, 8, 24, 40
TOKENS, TEXT_DIM = 16, 64
DIM, MULTIPLIERS = 32, (1, 2, 4)
LEARNING_RATE = 1e-4
WARMUP = 2
PARAMETER_TOLERANCE = 0.05
PAUSE = 0.3  # seconds between turns, longer than the pools of either side spin for work

OURS, PEER = "ivid", "imagen-pytorch"
TRAIN, FORWARD = "train", "forward"


@dataclasses.dataclass(frozen=True)
class Match:
  """Two networks of nearly as many parameters: heads of Unet3D, blocks a level and width of the conditioning of VideoUNet."""

  peer_heads: int
  peer_head_dim: int
  blocks: tuple[int, ...]
  embed_dim: int


MATCHES = {
  "default": Match(8, 64, (2, 2, 3), 128),  # Unet3D as it comes
  "narrow": Match(4, 32, (2, 2, 2), 192),  # its attention no wider than its widest level
}


# The two sides. Each returns its number of parameters and its steps: functions without arguments that end when the work is done.


def make_ours(match: Match):
  """VideoUNet, compiled; the training step donates its state as ivid's own does."""
  sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
  import jax
  import jax.numpy as jnp
  import optax
  from flax.core import meta

  from ivid.nets.unet import VideoUNet
  from ivid.programs import Program
  from ivid.spec.stage import LevelSpec, TimeMixing, UNetSpec

  levels = tuple(
    LevelSpec(DIM * m, blocks=b, unroll=b, time=TimeMixing.ATTENTION, spatial_attention=m == MULTIPLIERS[-1], cross_attention=True)
    for m, b in zip(MULTIPLIERS, match.blocks, strict=True)
  )
  net = VideoUNet(UNetSpec(levels, embed_dim=match.embed_dim, text_dim=TEXT_DIM))
  keys = jax.random.split(jax.random.key(0), 4)
  z = jax.random.normal(keys[0], (BATCH, FRAMES, HEIGHT, WIDTH, 3))
  target = jax.random.normal(keys[1], z.shape)
  given = dict(
    text=jax.random.normal(keys[2], (BATCH, 1, TOKENS, TEXT_DIM)),
    text_mask=jnp.ones((BATCH, 1, TOKENS), bool),
    is_video=jnp.ones((BATCH,), bool),
    fps=jnp.full((BATCH,), 3.0),
  )
  logsnr = jnp.array([-1.0, 2.0])
  params = Program("init", lambda key: meta.unbox(net.init(key, z, logsnr, **given)["params"])).jit()(keys[3])
  optimizer = optax.adam(LEARNING_RATE)

  def apply(params, z, logsnr, given):
    return net.apply({"params": params}, z, logsnr, **given)

  def train_step(state, z, logsnr, given, target):
    params, moments = state
    loss, gradient = jax.value_and_grad(lambda p: jnp.mean((apply(p, z, logsnr, given) - target) ** 2))(params)
    updates, moments = optimizer.update(gradient, moments)
    return (optax.apply_updates(params, updates), moments), loss

  step, predict = Program(TRAIN, train_step, donate=(0,)).jit(), Program(FORWARD, apply).jit()
  held = [(params, optimizer.init(params))]

  def train() -> float:
    held[0], loss = step(held[0], z, logsnr, given, target)
    jax.block_until_ready(held[0])
    return float(loss)

  def forward() -> tuple[int, ...]:
    return tuple(jax.block_until_ready(predict(held[0][0], z, logsnr, given)).shape)

  return sum(leaf.size for leaf in jax.tree.leaves(params)), train, forward


def import_peer():
  """Unet3D, without the network and without torchvision, whose image transforms it imports and this script does not use."""
  from transformers import T5Config, T5EncoderModel, T5Tokenizer  # noqa: F401 (they look for torchvision: before the stand-in)

  T5Config.from_pretrained = classmethod(lambda cls, *args, **options: cls(d_model=TEXT_DIM))
  if importlib.util.find_spec("torchvision") is None:
    for name in ("torchvision", "torchvision.transforms", "torchvision.utils"):
      sys.modules[name] = module = types.ModuleType(name)
      module.__spec__, module.__path__ = importlib.machinery.ModuleSpec(name, None), []
      parent, _, child = name.rpartition(".")
      if parent:
        setattr(sys.modules[parent], child, module)
  from imagen_pytorch.imagen_video import Unet3D

  return Unet3D


def make_peer(match: Match, *, threads: int, compiled: bool):
  """Unet3D as its users run it, eagerly, or through torch.compile."""
  import torch

  torch.set_num_threads(threads)
  torch.manual_seed(0)
  net = import_peer()(
    dim=DIM,
    dim_mults=MULTIPLIERS,
    text_embed_dim=TEXT_DIM,
    max_text_len=TOKENS,
    attn_heads=match.peer_heads,
    attn_dim_head=match.peer_head_dim,
  )
  parameters = sum(p.numel() for p in net.parameters())
  run = torch.compile(net) if compiled else net
  optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
  z = torch.randn(BATCH, 3, FRAMES, HEIGHT, WIDTH)
  target = torch.randn_like(z)
  level = torch.tensor([-1.0, 2.0])
  given = dict(text_embeds=torch.randn(BATCH, TOKENS, TEXT_DIM), text_mask=torch.ones(BATCH, TOKENS, dtype=torch.bool))

  def train() -> float:
    loss = torch.nn.functional.mse_loss(run(z, level, **given), target)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.item()

  @torch.no_grad()
  def forward() -> tuple[int, ...]:
    return tuple(run(z, level, **given).permute(0, 2, 3, 4, 1).shape)

  return parameters, train, forward


# A worker answers each line, the name of a step, with the seconds it took.


def work(side: str, args: argparse.Namespace) -> None:
  answers = os.fdopen(os.dup(1), "w", buffering=1)
  os.dup2(2, 1)  # what libraries print must not mix with the answers
  match = MATCHES[args.match]
  if side == OURS:
    parameters, train, forward = make_ours(match)
  else:
    parameters, train, forward = make_peer(match, threads=args.threads, compiled=args.compile)
  expected = (BATCH, FRAMES, HEIGHT, WIDTH, 3)
  for _ in range(WARMUP):
    loss, shape = train(), forward()
  assert shape == expected and loss == loss, (side, shape, loss)
  print(json.dumps(parameters), file=answers)
  steps = {TRAIN: train, FORWARD: forward}
  for line in sys.stdin:
    start = time.perf_counter()
    steps[line.strip()]()
    print(time.perf_counter() - start, file=answers)


class Worker:
  """One side in a process of its own."""

  def __init__(self, side: str, args: argparse.Namespace, cores: set[int]):
    command = [sys.executable, __file__, f"--worker={side}", f"--match={args.match}", f"--threads={args.threads}"]
    command += ["--compile"] if args.compile else []
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(args.threads)}
    self.process = subprocess.Popen(
      command,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env=environment,
      preexec_fn=lambda: os.sched_setaffinity(0, cores),  # both sides size their pools by it
    )
    self.parameters = int(self._answer())

  def seconds(self, step: str) -> float:
    self.process.stdin.write(f"{step}\n")
    self.process.stdin.flush()
    return float(self._answer())

  def close(self) -> None:
    self.process.stdin.close()
    self.process.wait()

  def _answer(self) -> str:
    line = self.process.stdout.readline()
    if not line:
      raise SystemExit(f"a worker ended with status {self.process.wait()}; its message stands above")
    return line


def measure(args: argparse.Namespace) -> dict:
  cores = set(sorted(os.sched_getaffinity(0))[: args.threads])
  if len(cores) < args.threads:
    raise SystemExit(f"--threads={args.threads}: this process may use {len(cores)} cores")
  workers = {side: Worker(side, args, cores) for side in (OURS, PEER)}
  parameters = {side: worker.parameters for side, worker in workers.items()}
  difference = parameters[OURS] / parameters[PEER] - 1
  if abs(difference) > PARAMETER_TOLERANCE:
    raise SystemExit(f"parameters differ by {difference:+.1%}: {parameters}; expected within {PARAMETER_TOLERANCE:.0%}")
  seconds = {step: {side: [] for side in workers} for step in (TRAIN, FORWARD)}
  for step, sides in seconds.items():
    for turn in range(args.rounds):
      for side in list(workers)[:: 1 if turn % 2 == 0 else -1]:  # who goes first alternates too
        time.sleep(PAUSE)
        sides[side].append(workers[side].seconds(step))
  for worker in workers.values():
    worker.close()
  return dict(match=args.match, threads=args.threads, compiled_peer=args.compile, parameters=parameters, seconds=seconds)


def report(result: dict) -> None:
  ours, peer = result["parameters"][OURS], result["parameters"][PEER]
  print(f"match {result['match']}, {result['threads']} threads; parameters: {OURS} {ours:,}, {PEER} {peer:,} ({ours / peer - 1:+.1%})")
  for step, sides in result["seconds"].items():
    middle = {side: statistics.median(values) for side, values in sides.items()}
    ratios = sorted(p / o for o, p in zip(sides[OURS], sides[PEER], strict=True))
    for side, values in sides.items():
      print(f"{step:8} {side:15} median {middle[side]:.3f} s  (least {min(values):.3f}, most {max(values):.3f}, n={len(values)})")
    print(f"{step:8} {PEER} / {OURS}: {middle[PEER] / middle[OURS]:.2f}, turn by turn {ratios[0]:.2f} to {ratios[-1]:.2f}")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--rounds", type=int, default=15, help="turns of each side, for each kind of step")
  parser.add_argument("--threads", type=int, default=2, help="cores, and threads of each side")
  parser.add_argument("--match", choices=sorted(MATCHES), default="default", help="which pair of networks")
  parser.add_argument("--compile", action="store_true", help="the peer through torch.compile")
  parser.add_argument("--json", type=pathlib.Path, help="file for all the times")
  parser.add_argument("--worker", choices=(OURS, PEER), help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.worker:
    work(args.worker, args)
    return
  result = measure(args)
  report(result)
  if args.json:
    args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
  main()
