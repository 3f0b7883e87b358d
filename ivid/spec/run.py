"""How a stage is trained: optimizer, batches, logging, checkpoints, mesh, data."""

from __future__ import annotations

import dataclasses
import enum
import math
from typing import Annotated

from ivid.spec.batch import CaptionLayout
from ivid.spec.cascade import CascadeSpec
from ivid.spec.distill import DistillSpec, Weight
from ivid.spec.errors import UserError
from ivid.spec.limits import LARGEST_SEED, MOST_FRAMES, MOST_PROCESSES, MOST_SAMPLES, MOST_SIDE, MOST_UPDATES
from ivid.spec.measures import MIN_CLIPS
from ivid.spec.phase import Clips, Deviation, PhaseSpec, Rate, Updates, check_course
from ivid.spec.ranges import Range, Share, check_ranges
from ivid.spec.sampling import Steps
from ivid.spec.stage import Logsnr

DEFAULT_STEPS = 10_000
WIDEST_EMA = 12**-0.5  # relative width of the mean of all updates
MOST_CAPTIONS = 100_000_000  # in a pool; their digests alone take gigabytes
MOST_WORKERS = 4096  # processes or threads on one machine

Many = Annotated[int, Range(0, MOST_UPDATES)]
Memory = Annotated[float, Range(0, 1, below=True, words="0 up to but not 1")]
Width = Annotated[float, Range(0, WIDEST_EMA, above=True, below=True, words=f"above 0 and below {WIDEST_EMA:.3f}, such as 0.05 and 0.1")]
Aspect = Annotated[float, Range(0, MOST_SIDE)]
Pool = Annotated[int, Range(0, MOST_CAPTIONS, words=f"0 or an even number, at most {MOST_CAPTIONS}")]
Workers = Annotated[int, Range(0, MOST_WORKERS)]
Devices = Annotated[int, Range(-1, MOST_PROCESSES, words="1 or more, or -1 for all devices that the other axes leave")]


class OptimizerKind(enum.Enum):
  ADAM = "adam"
  ADAFACTOR = "adafactor"
  MUON = "muon"


class Decay(enum.Enum):
  """The learning rate after its linear warm-up."""

  COSINE = "cosine"  # falls to final_fraction at the last step
  CONSTANT = "constant"
  INVERSE_SQRT = "inverse_sqrt"  # falls as sqrt(warmup_steps / step), as in the training of T5 (1910.10683, section 3.1.2)
  WSD = "wsd"  # warmup-stable-decay: constant, then linearly down to final_fraction over the last decay_share (2404.06395, section 4)


@dataclasses.dataclass(frozen=True)
class OptimizerSpec:
  """Update rule and learning rate of a run.

  Attributes:
    learning_rate: peak, reached after warmup_steps updates.
    final_fraction: share of learning_rate at which the decays "cosine" and "wsd" end.
    decay_share: share of the steps during which "wsd" falls.
    weight_decay: each update takes this share, times the learning rate, off every weight, whatever the kind.
    clip_norm: gradients with a larger global norm are scaled down to this norm.
  """

  kind: OptimizerKind = OptimizerKind.ADAM
  learning_rate: Rate = 1e-3
  warmup_steps: Many = 100
  decay: Decay = Decay.COSINE
  final_fraction: Share = 0.05
  decay_share: Annotated[float, Range(0, 1, above=True, words="above 0, at most 1")] = 0.2
  b1: Memory = 0.9
  b2: Memory = 0.99
  weight_decay: Weight = 0.0
  clip_norm: Annotated[float, Range(0, math.inf, above=True, words="a positive number; inf cuts nothing")] = 1.0

  def __post_init__(self):
    check_ranges(self, "train.optimizer.")


@dataclasses.dataclass(frozen=True)
class CropSpec:
  """The random crop in space and time on which a stage trains; 0 keeps the whole axis."""

  frames: Annotated[int, Range(0, MOST_FRAMES)] = 0
  height: Annotated[int, Range(0, MOST_SIDE)] = 0
  width: Annotated[int, Range(0, MOST_SIDE)] = 0

  def __post_init__(self):
    check_ranges(self, "train.crop.")


@dataclasses.dataclass(frozen=True)
class CheckpointSpec:
  every: Updates = 500
  max_to_keep: Updates = 2
  keep_period: Many = 0  # additionally keep every step that is a multiple of this; 0: none

  def __post_init__(self):
    check_ranges(self, "train.checkpoint.")


@dataclasses.dataclass(frozen=True)
class TrainSpec:
  """One training run of one stage."""

  seed: Annotated[int, Range(0, LARGEST_SEED)] = 0
  steps: Updates | None = None  # None: the sum of the phases, or DEFAULT_STEPS without phases; a smaller number ends the run early
  phases: tuple[PhaseSpec, ...] = ()  # named parts of the run, one after the other; without any, the run has the values below throughout
  batch_size: Clips = 16  # clips per step, over all devices
  accumulation: Clips = 1  # a batch is split into this many microbatches
  frames: Annotated[int, Range(0, MOST_FRAMES)] = 0  # so many frames, spread evenly over the clip; 0: all of them
  image_fraction: Share = 0.0  # share of a batch's rows that are packed independent images
  crop: CropSpec = CropSpec()
  optimizer: OptimizerSpec = OptimizerSpec()
  ema_decay: Memory = 0.999
  # Relative widths of power-function averages that are kept beside the EMA, such as (0.05, 0.1), and the updates between two snapshots of
  # them. From the snapshots, `ivid bundle --ema=` makes an average of a similar width (EDM2, 2312.02696, section 3). There are none by
  # default, because each one is a float32 copy of the weights.
  ema_widths: tuple[Width, ...] = ()
  ema_snapshot_every: Updates = 1000
  logsnr_shift: Logsnr | None = None  # shift of the noise levels in training; None: the stage's own, as in sampling
  logsnr_std: Deviation | None = None  # if given, training levels are normal around that shift with this deviation; None: the schedule's
  init_from: str = ""  # where initial weights come from: another run's work folder (its EMA), or a cascade's folder or name
  log_every: Updates = 50
  eval_every: Many = 1000  # 0: never
  eval_batches: Many = 4
  sample_every: Many = 2000  # 0: never
  num_samples: Clips = 8
  sample_steps: Steps = 16
  adherence_every: Many = 0  # 0: never; for moving_shapes only
  adherence_prompts: Annotated[int, Range(1, MOST_SAMPLES)] = 16  # of each group
  fvd_every: Many = 0  # 0: never; of clips long enough for I3D
  fvd_clips: Annotated[int, Range(MIN_CLIPS, MOST_SAMPLES)] = 64  # of validation; scores of as many clips alone are to be compared
  retrieval_every: Many = 0  # 0: never; of the prompts of adherence, for moving_shapes only
  checkpoint: CheckpointSpec = CheckpointSpec()

  def __post_init__(self):
    check_ranges(self, "train.")
    check_course(self.phases, self.steps, names=("train.phases", "train.steps"))
    if self.batch_size % self.accumulation:
      raise UserError(f"train.batch_size={self.batch_size} is no multiple of train.accumulation={self.accumulation}")

  @property
  def total_steps(self) -> int:
    """Updates of the whole run."""
    return self.steps or sum(phase.steps for phase in self.phases) or DEFAULT_STEPS

  @property
  def captions(self) -> CaptionLayout:
    """Which rows of a batch hold independent images: as many as image_fraction says, spread evenly."""
    images = round(self.batch_size * self.image_fraction)
    common = math.gcd(images, self.batch_size)
    return CaptionLayout(self.batch_size // common, images // common)

  def is_image(self, place: int) -> bool:
    """Whether the example at this position, counted from the start of the phase, is a row of independent images."""
    return place % self.captions.rows < self.captions.images


@dataclasses.dataclass(frozen=True)
class MeshSpec:
  """Axes of the device mesh. One of them may be -1, which stands for all devices that the others leave over.

  Batches lie over data x fsdp, parameters over fsdp (input channels) and tensor (output channels); frames and height cut one clip, for
  sampling what one device does not hold.
  """

  data: Devices = -1
  fsdp: Devices = 1
  tensor: Devices = 1
  frames: Devices = 1
  height: Devices = 1

  def __post_init__(self):
    check_ranges(self, "mesh.")


@dataclasses.dataclass(frozen=True)
class RunMeshSpec(MeshSpec):
  """The mesh of a run, over one TPU slice or several.

  Attributes:
    slices: that the data axis lies over, its outermost part: what crosses the network between slices is the sum of their gradients, and all
      other axes stay within a slice. data counts all slices. 0: as many as the devices say they are of, if data is a multiple of it.
  """

  slices: Annotated[int, Range(0, MOST_PROCESSES)] = 0


class Draw(enum.Enum):
  """Where the pictures of moving_shapes are drawn."""

  HOST = "host"  # by NumPy, in the processes that feed the devices
  DEVICE = "device"  # by the devices that train, which are fed scenes instead: a twentieth of the bytes


TFDS = "tfds:"


class Short(enum.Enum):
  """What happens to a clip that is shorter than the stage's output."""

  REJECT = "reject"  # it is only used for single frames
  HOLD = "hold"  # its last frame is held
  LOOP = "loop"  # it starts again from the beginning


@dataclasses.dataclass(frozen=True)
class SourceSpec:
  """One of several sources of a run.

  Attributes:
    name, dir: as of DataSpec.
    clips, images: weights of its clips among the clips of all sources, and of its images among the images of all sources.
  """

  name: str = ""
  dir: str = ""
  clips: Weight = 1.0
  images: Weight = 1.0

  @property
  def is_prepared(self) -> bool:
    """Whether it is a TFDS data set."""
    return self.name.startswith(TFDS)

  def __post_init__(self):
    check_ranges(self, f"data.sources: {self.name} has the weight ")


@dataclasses.dataclass(frozen=True)
class DataSpec:
  name: str = "moving_shapes"  # drawn on the fly; "tfds:NAME" reads a prepared TFDS data set
  dir: str = ""  # TFDS's data folder; empty: $TFDS_DATA_DIR or TFDS's default
  sources: tuple[SourceSpec, ...] = ()  # several of these, mixed by weight, instead of `name`
  short: Short = Short.REJECT  # for clips from files
  aspect: Aspect = 0.0  # width over height of a moving_shapes scene; 0: that of the picture, otherwise the scene is squeezed
  paraphrase: Share = 0.3  # share of training captions that are paraphrased
  two_objects: Share = 0.3  # share of scenes with two objects
  text_encoder: str = "nano"  # folder of a frozen text encoder, or the name of a shipped cascade
  caption_pool: Pool = 0  # moving_shapes: training captions come from a pool of so many, which is embedded once; 0: no pool
  cache: str = ""  # folder for the pool's embeddings; empty: $XDG_CACHE_HOME/ivid or ~/.cache/ivid
  embeddings: str = ""  # folder that `ivid data embed` wrote; the text encoder is then not loaded
  draw: Draw = Draw.HOST
  workers: Workers = 0  # processes that make the training batches; 0: `threads` of the training process make them
  threads: Annotated[int, Range(0, MOST_WORKERS)] = 1
  prefetch: Annotated[int, Range(1, MOST_WORKERS)] = 2

  def __post_init__(self):
    check_ranges(self, "data.")
    if self.draw is Draw.DEVICE and (self.sources or self.name != "moving_shapes"):
      raise UserError(f"data.draw=device: data.name={self.name!r} is not drawn: expected moving_shapes, or data.draw=host")
    if self.caption_pool % 2:
      raise UserError(
        f"data.caption_pool={self.caption_pool}: expected 0 or an even number, half of it for images "
        f"(nearest: {max(0, self.caption_pool + 1)})"
      )

  def named(self) -> tuple[SourceSpec, ...]:
    """The list of sources, each with its folder, even if there is only one."""
    return tuple(dataclasses.replace(s, dir=s.dir or self.dir) for s in self.sources) or (SourceSpec(self.name, self.dir),)

  def in_process(self) -> DataSpec:
    """The same data, but drawn by this process, as pixels: for the few batches of validation and for pictures to look at."""
    return dataclasses.replace(self, draw=Draw.HOST, workers=0)


@dataclasses.dataclass(frozen=True)
class RunSpec:
  """One config file for one stage of its cascade."""

  stage: str
  cascade: CascadeSpec
  train: TrainSpec
  mesh: RunMeshSpec
  data: DataSpec
  distill: DistillSpec = DistillSpec()
