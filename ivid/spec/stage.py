"""What one diffusion stage is: its network, its diffusion, its conditioning and how it is sampled by default."""

from __future__ import annotations

import dataclasses
import enum
from typing import Annotated

from ivid.spec.clip import ClipShape
from ivid.spec.errors import UserError, nearest
from ivid.spec.limits import LARGEST_NUMBER, MOST_CHANNELS, MOST_LAYERS, MOST_LEVELS, MOST_SIDE
from ivid.spec.names import check_name
from ivid.spec.ranges import Range, Share, check_ranges
from ivid.spec.sampling import SamplerKind, SamplingSpec, StudentSpec, any_stage_samplers

LONGEST_STAGE = 40  # bytes of a stage's name, which is a part of the names of clips
LARGEST_LOGSNR = 80.0  # float32 holds e^80, but not e^89
Channels = Annotated[int, Range(1, MOST_CHANNELS)]
Layers = Annotated[int, Range(1, MOST_LAYERS)]
Patch = Annotated[int, Range(1, MOST_SIDE)]
PowerRatio = Annotated[float, Range(0, LARGEST_NUMBER, above=True, words="a positive power ratio such as 3 or 5")]
Logsnr = Annotated[float, Range(-LARGEST_LOGSNR, LARGEST_LOGSNR, words=f"a finite number from {-LARGEST_LOGSNR:g} to {LARGEST_LOGSNR:g}")]


class Task(enum.Enum):
  """What a stage adds to its input (Imagen Video, section 2.2).

  The task only tells StageSpec which sizes may differ between input and output. What a stage does follows from those sizes.
  """

  BASE = "base"
  TSR = "tsr"  # temporal super-resolution: more frames of the same size
  SSR = "ssr"  # spatial super-resolution: the same frames, larger


class Prediction(enum.Enum):
  """What the network outputs."""

  X = "x"
  EPS = "eps"
  V = "v"


class LossWeight(enum.Enum):
  """Weight on the squared error of x (Progressive Distillation, section 4)."""

  X = "x"  # 1
  EPS = "eps"  # SNR
  V = "v"  # SNR + 1
  TRUNCATED_SNR = "truncated_snr"  # max(SNR, 1)
  MIN_SNR = "min_snr"  # min(SNR, 5), Min-SNR, arXiv 2303.09556


class Norm(enum.Enum):
  GROUP = "group"  # statistics over the height, width and one group of channels of a frame
  RMS = "rms"  # statistics over the channels of one position: exact under tiling


class TimeMixing(enum.Enum):
  NONE = "none"
  ATTENTION = "attention"  # every position attends to the same position of all frames
  # Every position attends to all positions of all frames, or in a picture to its own positions. This suits coarse levels, since what moves
  # changes its position.
  JOINT = "joint"
  CONVOLUTION = "convolution"


class TimeFill(enum.Enum):
  """How a temporal stage spreads its input over the target's frames (section 2.2)."""

  REPEAT = "repeat"
  BLANK = "blank"
  LINEAR = "linear"  # blends the frame before and the frame after (ours), so that the stage only has to improve an interpolation


class Filter(enum.Enum):
  """Kernel of a resize: a triangle (bilinear, widened when shrinking) or a box (mean of the covered area)."""

  TRIANGLE = "triangle"
  BOX = "box"


# Kinds of time mixing that let every frame see every other.
ATTENDING = (TimeMixing.ATTENTION, TimeMixing.JOINT)
# Results of a block that rematerialisation can keep: those of its convolutions, and of attention's projections into and out of heads.
SAVEABLE = ("conv", "heads", "out")


@dataclasses.dataclass(frozen=True)
class LevelSpec:
  """One resolution of the U-Net: `blocks` identical blocks on the way down and as many on the way up.

  A block is `residuals` residual blocks of convolutions, followed by one mixing step each over time, space and text. As in the DBlocks and
  UBlocks of Efficient U-Net (Imagen, appendix B), several residual blocks may stand before one attention.
  The blocks run as a loop over stacked weights. `remat`, `saved` and `unroll` choose how the loop runs, not what it computes. `remat` saves
  memory at the cost of time: the backward pass computes a block again, except for the results named in `saved` (of SAVEABLE).
  `unroll` is the number of blocks compiled in line per turn of the loop. Unrolling all of them is a fifth faster on a CPU, where the loop
  copies what it keeps for the backward pass; unrolling one compiles fastest.
  """

  channels: Channels
  blocks: Layers = 1
  residuals: Layers = 1
  time: TimeMixing = TimeMixing.NONE
  spatial_attention: bool = False
  cross_attention: bool = False
  remat: bool = False
  saved: tuple[str, ...] = ()
  unroll: Layers = 1

  def __post_init__(self):
    for name in self.saved:
      if name not in SAVEABLE:
        raise UserError(f"unet.levels: saved={name}: {nearest(name, SAVEABLE)}")


@dataclasses.dataclass(frozen=True)
class UNetSpec:
  """The Video U-Net (Imagen Video, section 2.3; Efficient U-Net of Imagen, appendix B)."""

  levels: tuple[LevelSpec, ...]
  patch: Patch = 1  # space-to-depth at the input, in space only
  io_kernel: Annotated[int, Range(1, 64)] = 3  # side of the first and last convolutions; 1 makes them a plain patch embedding
  # The network reads alpha_t z_t, the best linear guess of x, instead of z_t. Where z_t is pure noise, the input goes to zero.
  scale_input: bool = False
  # For super-resolution networks that output x: the expected distance between x and the conditioning clip, in units of x. Above 0, the
  # output is scaled by the uncertainty of the best guess from z_t and the clip, and added to that guess. This is EDM's preconditioning
  # (2206.00364, table 1), centred on the clip instead of on zero. 0: learned gates instead.
  residual_std: Annotated[float, Range(0, LARGEST_NUMBER)] = 0.0
  embed_dim: Channels = 128  # width of the conditioning vector
  head_dim: Channels = 32
  norm: Norm = Norm.GROUP
  norm_groups: Channels = 8
  text_dim: Channels = 256
  # The tokens are projected to this width once, before the cross-attention of every block projects them; 0: blocks read them as they are.
  # Where every frame has its own caption, the tokens of a wide encoder cost each block more than the block's own positions do.
  text_width: Annotated[int, Range(0, MOST_CHANNELS)] = 0
  text_patch: Patch = 1  # with text_width: the projection joins so many neighbouring tokens into one, as one byte says little
  # Every block reads each frame's time, not only time mixing: the time says how far the motion of a caption has come.
  frame_time: bool = False
  # The network reads given frames (such as the frames before a clip that is to be continued, or its two ends) and their mask through a
  # convolution of their own, which is zero at initialisation.
  given: bool = False
  # For a guidance-distilled student: a second way up, which reads the same way down but no text. The output is (1 + w) times the first
  # less w times the second. At w = 0 it is therefore exactly the teacher's, as long as the shared parameters are the teacher's.
  second_way_up: bool = False
  dtype: str = "float32"  # of activations; statistics and softmax are always computed in float32
  param_dtype: str = "float32"

  def __post_init__(self):
    if not self.levels:
      raise UserError("unet.levels is empty: expected at least one level")
    if len(self.levels) > MOST_LEVELS:
      raise UserError(f"unet.levels has {len(self.levels)}: expected at most {MOST_LEVELS}")
    check_ranges(self, "unet.")
    if self.text_patch > 1 and not self.text_width:
      raise UserError(f"unet.text_patch={self.text_patch}, text_width={self.text_width}: expected 1, or more with a text_width")
    for name in ("dtype", "param_dtype"):
      if getattr(self, name) not in ("float32", "bfloat16"):
        raise UserError(f"unet.{name}={getattr(self, name)!r}: expected 'float32' or 'bfloat16'")
    for i, level in enumerate(self.levels):
      check_ranges(level, f"unet.levels[{i}].")
      if self.norm is Norm.GROUP and level.channels % self.norm_groups:
        raise UserError(f"unet.levels[{i}].channels={level.channels} is no multiple of norm_groups={self.norm_groups}")
      if level.spatial_attention and level.time is TimeMixing.JOINT:
        raise UserError(f"unet.levels[{i}]: spatial_attention=True beside time=joint: expected False, joint attention spans space too")
      attends = level.spatial_attention or level.cross_attention or level.time in ATTENDING
      if attends and level.channels % self.head_dim:
        raise UserError(f"unet.levels[{i}].channels={level.channels} is no multiple of head_dim={self.head_dim}")

  @property
  def stride(self) -> int:
    """Pixels per position of the lowest level: patch x 2^(levels - 1)."""
    return self.patch * 2 ** (len(self.levels) - 1)

  @property
  def frame_local(self) -> bool:
    """Whether a run of frames gives the same result as the whole clip, except at its ends: only convolutions mix frames."""
    return all(level.time not in ATTENDING for level in self.levels)

  @property
  def pixel_local(self) -> bool:
    """Whether a part of the picture gives the same result as the whole, except at its borders: no spatial attention, per-position norms."""
    attends = any(level.spatial_attention or level.time is TimeMixing.JOINT for level in self.levels)
    return self.norm is Norm.RMS and not attends

  @property
  def fully_convolutional(self) -> bool:
    """Whether a tile gives the same result as the whole clip: no attention except to the text, and per-position norms."""
    return self.frame_local and self.pixel_local


@dataclasses.dataclass(frozen=True)
class DiffusionSpec:
  """Continuous-time Gaussian diffusion, cosine schedule (Progressive Distillation, section 2)."""

  prediction: Prediction = Prediction.V
  loss_weight: LossWeight = LossWeight.V
  logsnr_min: Logsnr = -20.0
  logsnr_max: Logsnr = 20.0
  # Added to logsnr at every time, the ends included, as in simple diffusion (2301.11093); values below 0 mean more noise.
  # ivid.spec.clip.resolution_logsnr_shift computes the shift that the paper proposes for a resolution.
  logsnr_shift: Logsnr = 0.0
  sigma_floor: Annotated[float, Range(0, 1, above=True)] = 0.05  # prediction x: smallest sigma in the loss weight's denominator
  text_drop: Share = 0.1  # share of examples that are trained without text, for guidance
  given_share: Share = 0.3  # with unet.given: share of clips that are trained with some frames given

  def __post_init__(self):
    check_ranges(self, "diffusion.")
    if not self.logsnr_min < self.logsnr_max:
      raise UserError(f"diffusion.logsnr_min={self.logsnr_min} is not below logsnr_max={self.logsnr_max}")


@dataclasses.dataclass(frozen=True)
class LowresSpec:
  """The clip that conditions a super-resolution stage, and its noise augmentation (section 2.5)."""

  input: ClipShape
  time_fill: TimeFill = TimeFill.REPEAT
  shrink: Filter = Filter.BOX  # how training makes the low-resolution clip from the real one
  aug_logsnr_min: Logsnr = -2.0  # training draws the level uniformly in logsnr
  aug_logsnr_max: Logsnr = 10.0
  aug_snr: PowerRatio = 5.0  # the fixed power ratio used in sampling: alpha^2 = snr / (1 + snr)

  def __post_init__(self):
    check_ranges(self, "lowres.")
    if not self.aug_logsnr_min <= self.aug_logsnr_max:
      raise UserError(f"lowres.aug_logsnr_min={self.aug_logsnr_min} is above aug_logsnr_max={self.aug_logsnr_max}: expected a range")


@dataclasses.dataclass(frozen=True)
class StageSpec:
  """One stage of a cascade: everything that determines its function. Weights carry their spec, and loading refuses a different one."""

  name: str
  task: Task
  output: ClipShape
  unet: UNetSpec
  diffusion: DiffusionSpec = DiffusionSpec()
  lowres: LowresSpec | None = None
  sampling: SamplingSpec = SamplingSpec()
  text_encoder: str = ""  # SHA-256 of the frozen encoder whose embeddings the stage was trained on
  student: StudentSpec | None = None  # for a distilled stage

  def __post_init__(self):
    check_name(self.name, "stage", longest=LONGEST_STAGE)
    if self.student is not None:
      self.student.check(self.sampling, self.name)
    elif self.sampling.sampler is SamplerKind.STOCHASTIC:
      raise UserError(f"stage {self.name} is not distilled: sampler=stochastic, expected {any_stage_samplers()}")
    if (self.task is Task.BASE) != (self.lowres is None):
      raise UserError(f"stage {self.name}: task {self.task.value} {'takes no' if self.task is Task.BASE else 'needs a'} lowres section")
    stride = self.unet.stride
    for side in ("height", "width"):
      size = getattr(self.output, side)
      if size % self.unet.patch:
        raise UserError(f"stage {self.name}: output {side}={size} is no multiple of unet.patch={self.unet.patch}")
    if min(self.output.height, self.output.width) < stride / 2:
      raise UserError(f"stage {self.name}: output {self.output} is smaller than the U-Net's stride of {stride}")
    if self.unet.residual_std and (self.lowres is None or self.diffusion.prediction is not Prediction.X):
      raise UserError(
        f"stage {self.name}: unet.residual_std={self.unet.residual_std}: expected 0 without a lowres section and prediction x"
      )
    if self.unet.given and self.lowres is not None:
      raise UserError(f"stage {self.name}: unet.given=True beside a lowres section: expected False, given frames are the base's")
    if self.lowres is None:
      return
    small, big = self.lowres.input, self.output
    if self.task is Task.TSR and (small.height, small.width) != (big.height, big.width):
      raise UserError(f"stage {self.name}: a temporal stage keeps the picture, but {small} becomes {big}")
    if big.frames % small.frames:
      raise UserError(f"stage {self.name}: {big.frames} frames are no multiple of its input's {small.frames}")
    if self.task is Task.SSR and (small.frames, small.fps) != (big.frames, big.fps):
      raise UserError(f"stage {self.name}: a spatial stage keeps frames and rate, but {small} becomes {big}")
    if abs(small.seconds - big.seconds) > 1e-6:
      raise UserError(f"stage {self.name}: input lasts {small.seconds:g} s, output {big.seconds:g} s")

  @property
  def time_factor(self) -> int:
    """Output frames per input frame."""
    return 1 if self.lowres is None else self.output.frames // self.lowres.input.frames
