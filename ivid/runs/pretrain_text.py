"""Pre-training of the small text encoder on captions of moving_shapes; its work folder."""

from __future__ import annotations

import json
import pathlib
import time
from typing import Any, cast

import jax
import numpy as np
import optax
from flax import serialization

from ivid.media.files import append_line, naming_errors, write_whole
from ivid.moving_shapes import grammar
from ivid.programs import Program
from ivid.runs.cache import enable_compilation_cache
from ivid.spec import formats
from ivid.spec.cascade import TextSpec
from ivid.spec.pretraining import TextTraining
from ivid.text import encoder, pretrain
from ivid.text.tokenizer import make_tokenizer, pad_tokens

WARMUP = 30
SAVE_EVERY = 100
SHOW_EVERY = 20
PARAPHRASED = 0.7  # share of captions that are paraphrased
STILL = 0.25  # share of captions of still pictures, without motion
LENGTHS = (80, 128, 160)  # padded lengths, with one compiled program each
ALL_LENGTHS_EVERY = 8  # steps between batches of captions of any length; the others fit the shortest usual length
TWO_OBJECTS_FROM = 0.2  # share of the run with captions of one object only, to learn words before order
ONE_OBJECT_EVERY = 4  # steps between batches of one object after that
RELPOS_RATE = 10.0  # multiplies the learning rate of the position biases, because useful biases are of order 5


def labels(attributes: grammar.Attributes, *, motion: bool) -> list[int]:
  """The class for each of `pretrain.CLASSES`; class 0 of an object's attribute is "none"."""
  row = [len(attributes.objects) - 1]
  for slot in range(2):
    if slot < len(attributes.objects):
      item = attributes.objects[slot]
      row += [item.size + 1, item.colour + 1, item.shape + 1, item.motion + 1 if motion else 0]
    else:
      row += [0] * len(pretrain.SLOT)
  return [*row, attributes.background]


def random_caption(rng: np.random.Generator, *, two_objects: bool, paraphrased: bool, held_out: bool = False) -> tuple[str, list[int]]:
  """A caption and its labels; `held_out` asks for combinations that training never shows."""
  scene = grammar.sample_attributes(rng, two_objects, held_out)
  motion = bool(rng.random() >= STILL)
  if paraphrased:
    text = grammar.paraphrase(scene.objects, scene.background, rng, motion=motion)
  else:
    text = (grammar.caption if motion else grammar.image_caption)(scene.objects, scene.background)
  return text, labels(scene, motion=motion)


def make_batch(captions: list[tuple[str, list[int]]], spec: TextSpec) -> dict[str, np.ndarray]:
  """`ids`, `mask`, `labels` of the captions, padded to the smallest of LENGTHS that holds them."""
  rows = make_tokenizer(spec).token_lists([text for text, _ in captions], LENGTHS[-1])
  length = next(n for n in LENGTHS if n >= max(map(len, rows)))
  ids, mask = pad_tokens(rows, length)
  return {"ids": ids, "mask": mask, "labels": np.array([row for _, row in captions], np.int32)}


def caption_batch(seed: int, step: int, batch_size: int, spec: TextSpec, *, two_objects: bool) -> dict[str, np.ndarray]:
  """The batch of a step, which only depends on (seed, step). Most batches hold captions of similar length, to waste little padding."""
  rng = np.random.default_rng([seed, step])
  limit = LENGTHS[-1] if step % ALL_LENGTHS_EVERY < 2 else LENGTHS[1] if two_objects else LENGTHS[0]
  captions = []
  while len(captions) < batch_size:
    row = random_caption(rng, two_objects=two_objects, paraphrased=bool(rng.random() < PARAPHRASED))
    if len(row[0].encode()) < limit:
      captions.append(row)
  return make_batch(captions, spec)


def train_program(spec: TextSpec, optimizer: optax.GradientTransformation) -> Program:
  """One step: (params, optimizer state, batch) -> (params, optimizer state, metrics)."""

  def step(params: Any, opt_state: Any, batch: dict[str, jax.Array]) -> tuple[Any, Any, dict[str, jax.Array]]:
    (_, metrics), gradient = jax.value_and_grad(pretrain.pretrain_loss, has_aux=True)(params, batch, spec=spec)
    changed, opt_state = optimizer.update(gradient, opt_state, params)
    updates = cast("Any", changed)
    relpos = updates["encoder"]["encoder"]["relpos_bias"]
    relpos["rel_embedding"] = RELPOS_RATE * relpos["rel_embedding"]
    return optax.apply_updates(params, updates), opt_state, metrics

  return Program("pretrain_text", step, donate=(0, 1))


def evaluate(params: Any, spec: TextSpec, *, batches: int = 8, batch_size: int = 32) -> dict[str, float]:
  """Accuracies on combinations that training never shows: templates and paraphrases, one and two objects."""
  run = Program("pretrain_text_eval", lambda p, batch: pretrain.pretrain_loss(p, batch, spec=spec)[1]).jit()
  results = {}
  for name, two_objects, paraphrased in (
    ("template_1", False, False),
    ("template_2", True, False),
    ("paraphrase_1", False, True),
    ("paraphrase_2", True, True),
  ):
    rng = np.random.default_rng([2**31, two_objects, paraphrased])  # no training stream starts with this seed
    sums = []
    for _ in range(batches):
      rows = [random_caption(rng, two_objects=two_objects, paraphrased=paraphrased, held_out=True) for _ in range(batch_size)]
      sums.append({k: float(v) for k, v in run(params, make_batch(rows, spec)).items()})
    for key in ("accuracy", "exact", *(f"accuracy_{a}_{h}" for a in pretrain.CLASSES for h in ("mean", "token"))):
      results[f"{name}/{key}"] = float(np.mean([row[key] for row in sums]))
  return results


def pretrain_encoder(options: TextTraining, spec: TextSpec | None = None) -> dict[str, float]:
  """Trains up to `steps`, continuing from what is in `out`. Writes metrics.jsonl, state.msgpack, encoder/ and accuracy.json.

  Args:
    spec: of the encoder; None: TextSpec's defaults.
  """
  enable_compilation_cache()
  out, spec = pathlib.Path(options.out), spec or TextSpec()
  steps, batch_size, learning_rate, seed = options.steps, options.batch_size, options.learning_rate, options.seed
  with naming_errors(out):
    out.mkdir(parents=True, exist_ok=True)
  schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, WARMUP, steps, 0.02 * learning_rate)
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule, b2=0.98))
  params = Program("init", lambda key: pretrain.init_pretrain(key, spec)).jit()(jax.random.key(seed))
  state = {"step": 0, "params": params, "optimizer": optimizer.init(params)}
  path = out / "state.msgpack"
  if path.is_file():
    state = serialization.from_bytes(state, path.read_bytes())
    print(f"continuing at step {state['step']}", flush=True)
  params, opt_state = jax.device_put((state["params"], state["optimizer"]))
  run, start = train_program(spec, optimizer).jit(), time.time()
  shown = []
  for step in range(int(state["step"]), steps):
    two_objects = step >= TWO_OBJECTS_FROM * steps and step % ONE_OBJECT_EVERY != 0
    batch = caption_batch(seed, step, batch_size, spec, two_objects=two_objects)
    params, opt_state, metrics = run(params, opt_state, batch)
    shown.append((two_objects, metrics))
    if (step + 1) % SHOW_EVERY == 0:
      show(step + 1, steps, shown, time.time() - start, out / "metrics.jsonl")
      shown = []
    if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
      write_whole(path, serialization.to_bytes(jax.device_get({"step": step + 1, "params": params, "optimizer": opt_state})))
      encoder.save_encoder(out / "encoder", spec, jax.device_get(params["encoder"]))
  results = evaluate(params, spec)
  write_whole(out / "accuracy.json", json.dumps(formats.stamped(results), indent=1) + "\n")
  return results


def show(step: int, steps: int, shown: list[tuple[bool, dict[str, jax.Array]]], seconds: float, path: pathlib.Path) -> None:
  """Writes one line to the terminal and one to metrics.jsonl: means since the last line, separately for one and two objects."""
  row: dict[str, Any] = {"step": step, "seconds": round(seconds, 1)}
  for two_objects in (False, True):
    part = [metrics for two, metrics in shown if two is two_objects]
    for key in part[0] if part else ():
      row[f"objects_{1 + two_objects}/{key}"] = round(float(np.mean([m[key] for m in part])), 4)
  append_line(path, json.dumps(row))
  keys = ("loss", "accuracy", "exact", "accuracy_shape_1_mean")
  shown_keys = [f"objects_{n}/{key}" for n in (1, 2) for key in keys]
  print(f"{step}/{steps} {seconds:.0f}s " + " ".join(f"{k[8:]}={row[k]:.3f}" for k in shown_keys if k in row), flush=True)
