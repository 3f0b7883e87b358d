"""A run as `ivid train` makes it, joined, looped, saved and stopped, around an update that compiles at once."""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.sharding import NamedSharding, PartitionSpec

from ivid.bin.flags import define_hosts, join_hosts, parse_flags
from ivid.config import load_run
from ivid.media.places import open_folder
from ivid.parallel.distributed import StopSignal, alone, connect, is_first, on_host
from ivid.parallel.mesh import make_mesh
from ivid.parallel.sharding import batch_sharding, process_rows, replicated, with_shardings
from ivid.runs.workdir import shared_folder
from ivid.spec.run import CheckpointSpec, MeshSpec, TrainSpec
from ivid.steps import TrainState
from ivid.train import phases
from ivid.train.checkpoint import Checkpointer
from ivid.train.loop import Hook, Loop
from ivid.train.metrics import MetricWriter

ROWS, WIDTH = 8, 16


def define_flags(values):
  define_hosts(values)
  flags.DEFINE_string("workdir", None, "", flag_values=values)
  flags.DEFINE_integer("steps", 30, "", flag_values=values)
  flags.DEFINE_float("seconds", 0.0, "of each step", flag_values=values)


def update(state, batch, key):
  del key
  loss = lambda w: jnp.mean(jnp.square(batch @ jnp.sin(w) - 1.0))  # noqa: E731
  value, grad = jax.value_and_grad(loss)(state.params["w"])
  w = state.params["w"] - 0.1 * grad
  ema = {"w": 0.9 * state.ema["w"] + 0.1 * w}
  return TrainState(step=state.step + 1, params={"w": w}, ema=ema, opt_state={"g": grad}), {"loss": value}


def main(argv):
  values = parse_flags(argv, define_flags).flags
  join_hosts(values)
  train = TrainSpec(steps=values.steps, batch_size=ROWS, log_every=1, eval_every=5, checkpoint=CheckpointSpec(every=5))
  mesh = make_mesh(MeshSpec(data=-1, fsdp=min(2, jax.device_count())))
  connect(mesh)
  rows, mine, seen = batch_sharding(mesh), process_rows(mesh, ROWS), set()
  w = NamedSharding(mesh, PartitionSpec("fsdp"))
  shardings = TrainState(step=replicated(mesh), params={"w": w}, ema={"w": w}, opt_state={"g": w})

  def init():
    w = {"w": jnp.linspace(0.0, 1.0, WIDTH * WIDTH).reshape(WIDTH, WIDTH)}
    return TrainState(step=jnp.zeros((), jnp.int32), params=w, ema=w, opt_state={"g": jnp.zeros_like(w["w"])})

  def batches(step):
    while True:
      examples = [np.random.default_rng(step * ROWS + row).standard_normal(WIDTH, np.float32) for row in mine]
      seen.update(mine)
      yield jax.make_array_from_process_local_data(rows, np.stack(examples), (ROWS, WIDTH))
      step += 1

  def hook(step, state):
    time.sleep(values.seconds)
    with alone():  # as the validation clips are made, while the mesh of all processes is set
      own = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(step), np.arange(2))
    assert own.is_fully_addressable
    return {"eval/norm": float(np.linalg.norm(on_host(state.params)["w"]))}

  workdir = open_folder(values.workdir, "--workdir")
  with shared_folder(workdir, "{}") as begin, jax.set_mesh(mesh):
    checkpointer = Checkpointer(workdir, train.checkpoint, load_run("tiny:base").cascade.stage("base"))
    start = 0
    if checkpointer.latest_step() is None:
      state = jax.jit(init, out_shardings=shardings)()
    else:
      state, have = checkpointer.restore(with_shardings(jax.eval_shape(init), shardings))
      start = have.next_index // ROWS
      print(f"resuming at step {start}", flush=True)
    begin()
    checkpointer.begin(start)
    writer = MetricWriter(workdir, active=is_first(), from_step=start)
    step_fn = jax.jit(update, out_shardings=(shardings, replicated(mesh)))
    loop = Loop(
      phases.resolve(train)[0], train.total_steps, step_fn, batches(start), jax.random.key(0), checkpointer, writer, [Hook(1, hook)]
    )
    stop = StopSignal(mesh)
    state = loop.run(state, stop=stop)
    checkpointer.close()
    print(f"process {jax.process_index()} read rows {sorted(seen)}; step {int(state.step)}, stopped: {stop.agreed()}", flush=True)


if __name__ == "__main__":
  main(sys.argv)
