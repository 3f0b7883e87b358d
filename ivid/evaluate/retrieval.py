"""Retrieval: whether clips and their prompts find each other in the space of a small dual encoder, which is trained for this world.

Scores carry the network's hash and are only comparable with scores of the same network, which is not CLIP.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ivid.evaluate.calibrate import CHANGES, change_any
from ivid.evaluate.dual_encoder import Network, changes, load_network
from ivid.evaluate.judged import Judging
from ivid.evaluate.prompts import Prompt, seeded_prompts
from ivid.evaluate.shares import Kept, Work, make_share
from ivid.evaluate.summary import rate
from ivid.media.files import write_whole
from ivid.moving_shapes import grammar
from ivid.moving_shapes.draw import draw, rounded
from ivid.moving_shapes.scene import make_scene
from ivid.spec import convert, formats
from ivid.spec.clip import ClipShape
from ivid.spec.errors import UserError
from ivid.weights.opening import retrieval_folder

RESULTS = "retrieval.json"
MIN_PROMPTS = 10  # among fewer prompts, nearly every clip finds its own
STREAM = 303  # random stream of validation, which no training uses


@dataclasses.dataclass(frozen=True)
class Scores:
  """The scores of clips and their prompts.

  Attributes:
    similarity: cosine between each clip and its own prompt, [N].
    ranks: rank of each clip's prompt among all different prompts by cosine; 1 is the best.
    r_precision: for each prompt with R clips, their share among the R closest clips (Manning et al., 2008, section 8.4).
    prompts: number of different prompts.
  """

  similarity: np.ndarray
  ranks: np.ndarray
  r_precision: np.ndarray
  prompts: int

  @property
  def figures(self) -> dict[str, Any]:
    """Means, for reports."""
    return dict(
      score=float(self.similarity.mean()),
      r_at_1=float((self.ranks == 1).mean()),
      r_precision=float(self.r_precision.mean()),
      prompts=self.prompts,
      clips=len(self.similarity),
    )


def measure(clips: np.ndarray, texts: Sequence[str], vectors: np.ndarray) -> Scores:
  """Scores of clips from unit vectors.

  Args:
    clips: [N, dim].
    texts: [N], the prompt of each clip; several clips may share one.
    vectors: [M, dim], of the different texts in the order of their first appearance.
  """
  place = {text: n for n, text in enumerate(dict.fromkeys(texts))}
  own = np.array([place[text] for text in texts])
  cosines = clips.astype(np.float64) @ vectors.astype(np.float64).T
  similarity = cosines[np.arange(len(own)), own]
  ranks = 1 + (cosines > similarity[:, None]).sum(1)
  shares = []
  for n in range(len(vectors)):
    right = own == n
    closest = np.argsort(-cosines[:, n], kind="stable")[: right.sum()]
    shares.append(right[closest].mean())
  return Scores(similarity, ranks, np.array(shares), len(vectors))


def check_prompts(texts: Sequence[str]) -> None:
  """Raises UserError if there are fewer than MIN_PROMPTS different ones."""
  if (found := len(set(texts))) < MIN_PROMPTS:
    raise UserError(f"retrieval among {found} different prompts: expected {MIN_PROMPTS} or more, such as 100")


def shipped_network() -> Network:
  """The network that ships with nano."""
  return load_network(retrieval_folder("nano"))


def score_clips(network: Network, clips: np.ndarray, texts: Sequence[str]) -> Scores:
  """Scores of the clips [N, dim] that the network has seen, whose prompts are `texts` [N]."""
  return measure(clips, texts, network.captions(list(dict.fromkeys(texts))))


@dataclasses.dataclass(frozen=True)
class Seen:
  """A clip's unit vector [dim], and a description of how the clip was fitted to the network."""

  vector: np.ndarray
  fitted: str


def judge_share(judging: Judging, network: Network, folder: pathlib.Path, process: tuple[int, int] | None) -> list[Seen] | None:
  """The vectors of all clips; None while those of other processes are missing. Other arguments: see shares.make_share.

  Raises:
    UserError: there are fewer than MIN_PROMPTS different prompts (checked first), or the clips are single images; and as make_share.
  """
  asked = [prompt.text for prompt in judging.prompts]
  check_prompts(asked)

  def make(numbers: Sequence[int]) -> Iterator[Seen]:
    fitted: list[str] = []

    def noted() -> Iterator[Any]:
      for clip in judging.clips(numbers):
        words = changes(clip.shape, network.spec.clip)
        if words and words not in fitted:
          print(f"retrieval looks at {words}", file=sys.stderr, flush=True)
        fitted.append(words)
        yield clip

    vectors = network.clips(noted())
    return map(Seen, vectors, fitted)

  def keep(seen: Seen) -> Kept:
    return dict(fitted=seen.fitted), dict(vector=seen.vector)

  def restore(n: int, kept: Kept) -> Seen:
    del n
    return Seen(kept[1]["vector"], kept[0]["fitted"])

  work = Work(dict(metric="retrieval", network=network.hash, asked=asked, **judging.key), len(asked), judging.batch, make)
  return make_share(work, folder, process, keep, restore)


def write_report(folder: pathlib.Path, judging: Judging, seen: Sequence[Seen], network: Network) -> dict[str, Any]:
  """Writes RESULTS into the folder and returns its figures."""
  texts = [prompt.text for prompt in judging.prompts]
  scores = score_clips(network, np.stack([one.vector for one in seen]), texts)
  figures = scores.figures | dict(r_at_1_interval=rate(int((scores.ranks == 1).sum()), len(texts)))
  rows = zip(texts, scores.similarity.tolist(), scores.ranks.tolist(), strict=True)
  record = dict(
    metric="retrieval",
    network=dict(hash=network.hash, **convert.to_dict(network.spec)),
    made_by=judging.made_by,
    fitted=sorted({one.fitted for one in seen} - {""}),
    **figures,
    results=[dict(prompt=text, score=score, rank=rank) for text, score, rank in rows],
  )
  write_whole(folder / RESULTS, json.dumps(formats.stamped(record), indent=1) + "\n")
  return figures


def format_figures(figures: dict[str, Any], network: Network) -> str:
  """The figures in two lines."""
  interval = figures["r_at_1_interval"]
  between = f"({100 * interval['low']:.1f} to {100 * interval['high']:.1f}%)"
  return (
    f"retrieval of {figures['clips']} clips among {figures['prompts']} prompts, by the network {network.hash[:12]} of {network.spec.data}\n"
    f"score {figures['score']:.3f}   R@1 {100 * figures['r_at_1']:.1f}% {between}   R-precision {100 * figures['r_precision']:.1f}%"
  )


@dataclasses.dataclass(frozen=True)
class DrawnTruth:
  """Drawn clips, their prompts, and prompts that differ from them in one attribute.

  Attributes:
    changed: the number of the clip, the attribute, and the changed prompt.
  """

  clips: list[np.ndarray]
  prompts: list[Prompt]
  changed: list[tuple[int, str, str]]


def drawn_truth(clip: ClipShape, count: int, *, seed: int = 0, changes: int = len(CHANGES)) -> DrawnTruth:
  """`count` clips of seeded prompts of all groups, with a prompt each for the first `changes` attributes that can be changed."""
  prompts = seeded_prompts(seed + STREAM, -(-count // 4))[:count]
  times = np.arange(clip.frames) / clip.fps
  clips, changed = [], []
  for n, prompt in enumerate(prompts):
    scene = make_scene(seed, n, aspect=clip.width / clip.height, said=prompt.attributes, stream=STREAM)
    clips.append(rounded(draw(scene, times=times, height=clip.height, width=clip.width)))
    rng = np.random.default_rng([seed, n, STREAM])
    for name in rng.permutation(CHANGES)[:changes]:
      if found := change_any(prompt.attributes, rng, (str(name),)):
        changed.append((n, found[0], grammar.caption(found[1].objects, found[1].background)))
  return DrawnTruth(clips, prompts, changed)


def validate(network: Network, truth: DrawnTruth, *, of: int = 100) -> dict[str, float]:
  """R@1 of drawn clips in sets of `of` prompts, and by attribute how often a clip is closer to its prompt than to a changed one."""
  clips = network.clips(truth.clips)
  texts = [prompt.text for prompt in truth.prompts]
  vectors = network.captions(texts)
  sets = [slice(start, start + of) for start in range(0, len(texts), of)]
  found = [measure(clips[part], texts[part], vectors[part]) for part in sets]
  result = {name: float(np.mean([one.figures[name] for one in found])) for name in ("score", "r_at_1", "r_precision")}
  others = network.captions([text for _, _, text in truth.changed])
  places = np.array([n for n, _, _ in truth.changed])
  lower = (clips[places] * vectors[places]).sum(1) > (clips[places] * others).sum(1)
  names = np.array([name for _, name, _ in truth.changed])
  result |= {f"changed_{name}": float(lower[names == name].mean()) for name in CHANGES if (names == name).any()}
  return result | dict(changed=float(lower.mean()))
