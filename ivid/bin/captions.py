"""Where a run's embeddings come from: its text encoder, or a folder that holds them already; and writing such a folder."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable

import jax
from jax.sharding import Mesh

from ivid.bin.config import text_encoder_folder
from ivid.parallel import sharding
from ivid.parallel.mesh import make_mesh
from ivid.spec.cascade import TextSpec
from ivid.spec.run import DataSpec, MeshSpec, RunSpec
from ivid.text import t5
from ivid.text.embedder import Embedder
from ivid.text.placement import Placement


def open_text(run: RunSpec) -> Embedder:
  """The embeddings of `data.embeddings`, or else the encoder of `data.text_encoder`.

  Raises:
    ValueError: not there or damaged, or of another width than the cascade's text.
  """
  if run.data.embeddings:
    from ivid.text.stored import StoredEmbeddings

    found = StoredEmbeddings(run.data.embeddings)
    name, dim = f"data.embeddings={run.data.embeddings}", found.key.dim
  else:
    from ivid.text.encoder import load_encoder

    found = load_encoder(text_encoder_folder(run.data.text_encoder))
    name, dim = f"data.text_encoder={run.data.text_encoder}", found.spec.dim
  if dim != run.cascade.text.dim:
    raise ValueError(f"{name} gives embeddings of width {dim}, cascade {run.cascade.name} reads {run.cascade.text.dim}")
  return found


def encoder_placement(mesh: Mesh) -> Callable[[TextSpec], Placement]:
  """An encoder's parameters over the mesh by their logical axes, captions over its rows."""
  return lambda spec: Placement(sharding.param_shardings(mesh, t5.abstract_params(spec)), sharding.batch_sharding(mesh))


def embed_captions(
  data: DataSpec,
  out: str | os.PathLike,
  *,
  length: int,
  batch_size: int,
  shard_size: int,
  process: tuple[int, int] | None = None,
  progress: Callable[[int, int], None] = lambda done, total: None,
) -> pathlib.Path:
  """Writes the embeddings of all captions of `data` by its text encoder; returns the folder for data.embeddings.

  The encoder is sharded over this process's devices; several processes share out the captions' shards.

  Args:
    length: tokens that captions are truncated to.
    batch_size: captions a call of the network, rounded up to a multiple of the devices.
    process: index and count of the processes; None: as JAX counts them.
  """
  from ivid.data.tfds_source import all_captions  # TFDS takes seconds to import
  from ivid.text.encoder import load_encoder
  from ivid.text.stored import write_embeddings

  captions = set(all_captions(data))
  devices = jax.local_devices()
  placement = encoder_placement(make_mesh(MeshSpec(data=1, fsdp=-1), devices)) if len(devices) > 1 else None
  rows = -(-batch_size // len(devices)) * len(devices)
  encoder = load_encoder(text_encoder_folder(data.text_encoder), placement=placement, batch_size=rows)
  index, count = process or (jax.process_index(), jax.process_count())
  sizes = dict(length=length, shard_size=shard_size, process_index=index, process_count=count)
  return write_embeddings(out, encoder, captions, progress=progress, **sizes)
