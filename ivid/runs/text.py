"""The source of a run's embeddings: its text encoder, or a folder that already holds them. Also writes such a folder."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence

import jax
from jax.sharding import Mesh
from tqdm import tqdm

from ivid.data import engines
from ivid.data.caption_pool import training_pool
from ivid.media.copies import user_cache
from ivid.parallel import sharding, signals
from ivid.parallel.distributed import alone, is_first
from ivid.parallel.mesh import make_mesh
from ivid.spec.cascade import TextSpec
from ivid.spec.errors import UserError
from ivid.spec.run import DataSpec, MeshSpec, RunSpec
from ivid.text import t5
from ivid.text.embedder import Embedder
from ivid.text.encoder import TextEncoder, load_encoder
from ivid.text.placement import Placement
from ivid.text.pooled import PooledEmbedder, write_pool
from ivid.text.stored import StoredEmbeddings, index_captions, read_key, write_shards
from ivid.train.progress import Progress
from ivid.weights.opening import text_encoder_folder

SHARE_SHARDS = 16  # shards per part of a Beam pipeline


def open_text(run: RunSpec, *, pool: bool = True) -> Embedder:
  """The embeddings of `data.embeddings`, or else the encoder of `data.text_encoder`, with its pool if `data.caption_pool` says so.

  Args:
    pool: whether training captions are needed; those of the pool are then embedded now, unless `data.cache` has them.

  Raises:
    UserError: the source is missing or damaged, or has another width than the cascade's text.
  """
  if run.data.embeddings:
    found = StoredEmbeddings(run.data.embeddings)
    name, dim = f"data.embeddings={run.data.embeddings}", found.key.dim
  else:
    found = load_encoder(text_encoder_folder(run.data.text_encoder))
    name, dim = f"data.text_encoder={run.data.text_encoder}", found.spec.dim
  if dim != run.cascade.text.dim:
    raise UserError(f"{name} gives embeddings of width {dim}, cascade {run.cascade.name} reads {run.cascade.text.dim}")
  captions = training_pool(run.data, run.train.seed) if pool and not run.data.embeddings else None
  return found if captions is None else _pooled(run, found, captions.captions())  # pyright: ignore[reportArgumentType]  captions come from a pool only where nothing is stored


def _pooled(run: RunSpec, encoder: TextEncoder, captions: list[str]) -> Embedder:
  """The encoder, with the embeddings of these captions in the cache folder, where they are first written if they are missing."""
  out = (pathlib.Path(run.data.cache) if run.data.cache else user_cache()) / "embeddings"
  with contextlib.ExitStack() as stack:
    bar = None  # none where nothing is missing

    def progress(done: int, total: int) -> None:
      nonlocal bar
      signals.end_if_asked()
      if bar is None:
        if is_first():
          print(f"embedding {total} captions once, into a folder of {out}", file=sys.stderr, flush=True)
        bar = stack.enter_context(Progress(total=total, initial=done, unit="caption"))
      bar.update(done)

    stack.enter_context(alone())
    folder = write_pool(out, encoder, captions, length=run.cascade.text.max_tokens, progress=progress)
  return PooledEmbedder(folder, encoder, captions)


def encoder_placement(mesh: Mesh) -> Callable[[TextSpec], Placement]:
  """Spreads an encoder's parameters over the mesh by logical axes, and captions over its rows."""
  return lambda spec: Placement(sharding.param_shardings(mesh, t5.abstract_params(spec)), sharding.batch_sharding(mesh))


def embed_captions(
  data: DataSpec,
  out: str | os.PathLike[str],
  *,
  length: int,
  batch_size: int,
  shard_size: int,
  process: tuple[int, int] | None = None,
  workers: int = 1,
  beam: Sequence[str] | None = None,
  quiet: bool = False,
) -> pathlib.Path:
  """Writes the embeddings of all captions of `data` by its text encoder; returns the folder for data.embeddings.

  The encoder is sharded over the devices of a process. The shards of captions are divided among processes: those of JAX, hosts that are
  told their index, `workers` on this machine, or those of a Beam pipeline.

  Args:
    length: number of tokens to which captions are truncated.
    batch_size: captions per call of the network, rounded up to a multiple of the number of devices.
    process: index and number of the processes; None: as JAX counts them.
    workers, beam: as in ivid.data.engines.run; each part is a share of this process's shards.
    quiet: whether to hide the progress bar.
  """
  encoder, captions = _encoder(data.text_encoder, batch_size), _Captions(data)
  index, count = process or (jax.process_index(), jax.process_count())
  folder = index_captions(out, encoder, captions, length=length, shard_size=shard_size, write=index == 0)
  # Each share iterates over all captions once.
  shares = workers if beam is None else -(-read_key(folder).shards // SHARE_SHARDS)
  write = functools.partial(_write_share, data, folder, batch_size, index, count, shares)
  with tqdm(unit="shard", desc="captions", disable=quiet) as bar, signals.listening():

    def progress(done: int, total: int) -> None:
      signals.end_if_asked()  # finished shards are complete
      bar.total, bar.n = total, done
      bar.refresh()

    if shares == 1:
      write_shards(folder, encoder, captions, process_index=index, process_count=count, progress=progress)
    else:
      engines.run(write, range(shares), workers=workers, beam=beam, progress=progress)
  return folder


def _write_share(data: DataSpec, folder: pathlib.Path, batch_size: int, index: int, count: int, shares: int, share: int) -> None:
  """Writes one of `shares` parts of the shards of process `index` of `count`."""
  encoder = _encoder(data.text_encoder, batch_size)
  write_shards(folder, encoder, _Captions(data), process_index=index + count * share, process_count=count * shares)


@functools.lru_cache(maxsize=1)
def _encoder(name: str, batch_size: int) -> TextEncoder:
  devices = jax.local_devices()
  placement = encoder_placement(make_mesh(MeshSpec(data=1, fsdp=-1), devices)) if len(devices) > 1 else None
  rows = -(-batch_size // len(devices)) * len(devices)
  return load_encoder(text_encoder_folder(name), placement=placement, batch_size=rows)


@dataclasses.dataclass(frozen=True)
class _Captions:
  """All captions of all sources; each iteration reads them again."""

  data: DataSpec

  def __iter__(self) -> Iterator[str]:
    from ivid.data.prepared import all_captions  # TFDS takes seconds to import

    for source in self.data.named():
      yield from all_captions(source.name, source.dir)
