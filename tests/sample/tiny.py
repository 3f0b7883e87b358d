"""A cascade of three tiny stages with random weights."""

import dataclasses
import pathlib

import jax
import numpy as np

from ivid.sample.cascades import write_cascade
from ivid.spec.cascade import CascadeSpec, TextSpec
from ivid.spec.clip import ClipShape
from ivid.spec.sampling import GuidanceSpec, SamplerKind, SamplingSpec
from ivid.spec.stage import LevelSpec, LowresSpec, StageSpec, Task, TimeMixing, UNetSpec
from ivid.stage import Stage, unbox
from ivid.text import encoder, t5

TEXT = TextSpec(name="tiny", dim=16, layers=1, heads=2, head_dim=8, mlp_dim=16, max_tokens=24)
BASE = ClipShape(frames=2, height=8, width=12, fps=2.0)
SLOW = ClipShape(frames=4, height=8, width=12, fps=4.0)
LARGE = ClipShape(frames=4, height=16, width=24, fps=4.0)
GUIDED = SamplingSpec(steps=3, guidance=GuidanceSpec(weight=1.0))
NOISY = SamplingSpec(steps=2, sampler=SamplerKind.ANCESTRAL)


def tiny_stage(name, task, output, *, lowres=None, time=TimeMixing.CONVOLUTION, sampling=GUIDED):
  levels = (LevelSpec(8, time=time, cross_attention=True),)
  unet = UNetSpec(levels=levels, patch=2, embed_dim=16, head_dim=8, norm_groups=4, text_dim=TEXT.dim)
  return StageSpec(name, task, output, unet, lowres=lowres and LowresSpec(input=lowres), sampling=sampling)


def tiny_cascade(text_encoder, *, frames=SLOW.frames):
  """Its spec: base, tsr1 (guided DDIM) and ssr1 (ancestral, no guidance) of `frames`, trained with that text encoder."""
  slow, large = (dataclasses.replace(shape, frames=frames, fps=float(frames)) for shape in (SLOW, LARGE))
  stages = (
    tiny_stage("base", Task.BASE, BASE, time=TimeMixing.ATTENTION),
    tiny_stage("tsr1", Task.TSR, slow, lowres=BASE),
    tiny_stage("ssr1", Task.SSR, large, lowres=slow, sampling=NOISY),
  )
  return CascadeSpec("tiny", TEXT, tuple(dataclasses.replace(s, text_encoder=text_encoder) for s in stages))


def random_params(spec, seed):
  """Parameters with no zeros: those of initialisation would give a constant output."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda a: (0.3 * rng.standard_normal(a.shape)).astype(np.float32), unbox(Stage(spec).abstract_params()))


def trained_stages(spec):
  """What a bundle is made of: stages by name with parameters and steps 100, 101, 102."""
  return {stage.name: (stage, random_params(stage, i), 100 + i) for i, stage in enumerate(spec.stages)}


def write_text(folder):
  """A text encoder in the folder; its hash."""
  encoder.save_encoder(folder, TEXT, t5.init_params(jax.random.key(0), TEXT))
  return encoder.load_encoder(folder).hash


def write_tiny(folder, **options):
  """The whole cascade in folder/tiny, its text encoder in folder/text."""
  folder = pathlib.Path(folder)
  spec = tiny_cascade(write_text(folder / "text"), **options)
  return write_cascade(folder / "tiny", spec, trained_stages(spec), folder / "text")
