"""Retrieval during training: whether clips of the EMA weights and their prompts find each other."""

from __future__ import annotations

import time

from ivid.evaluate.dual_encoder import fitted
from ivid.evaluate.prompts import seeded_prompts
from ivid.evaluate.retrieval import check_prompts, score_clips, shipped_network
from ivid.moving_shapes.observer import MIN_FRAMES
from ivid.parallel.distributed import alone
from ivid.runs.adherence import sampled_prompts
from ivid.runs.curve import Curve, Weights
from ivid.spec.errors import UserError
from ivid.spec.run import RunSpec
from ivid.spec.view import training_view
from ivid.stage import Stage
from ivid.text.embedder import Embedder
from ivid.weights.ema import say

NAME = "retrieval"


def retrieval_curves(stage: Stage, run: RunSpec, encoder: Embedder) -> list[Curve]:
  """The hook that returns retrieval/score, r_at_1 and r_precision by the network that ships, over the prompts of the curves of adherence.

  There is none while the training is on clips too short to show a motion.

  Raises:
    UserError: before anything is sampled: fewer than retrieval.MIN_PROMPTS different prompts, or a data set that the network does not know.
  """
  if training_view(stage.spec, run.train).output.frames < MIN_FRAMES:
    return []
  network = shipped_network()
  if run.data.name != network.spec.data:
    want = f"{network.spec.data}, which is all that the network that ships knows"
    raise UserError(f"train.retrieval_every with data.name={run.data.name}: expected {want}, or 0")
  check_prompts([prompt.text for prompt in seeded_prompts(run.train.seed, run.train.adherence_prompts)])
  sample = sampled_prompts(NAME, stage, run, encoder)
  say(f"retrieval by the network {network.hash[:12]} of {network.spec.data}")

  def call(step: int, state: Weights) -> dict[str, float]:
    del step
    started = time.monotonic()
    asked, clips = zip(*((prompt.text, fitted(clip, network.spec.clip)) for prompt, clip in sample(state)), strict=True)
    with alone():
      found = score_clips(network, network.clips(clips), asked).figures
    figures = {f"{NAME}/{name}": found[name] for name in ("score", "r_at_1", "r_precision")}
    return figures | {f"perf/{NAME}_seconds": time.monotonic() - started}

  return [call]
