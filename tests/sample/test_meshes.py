"""Clips and batches cut over devices: the same pixels as on one, by the program that `ivid compile` lowers."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from ivid.config import load_run
from ivid.measure.compiling import format_report, make_program
from ivid.parallel.mesh import make_mesh
from ivid.programs import Program
from ivid.sample import outputs, programs, running, stage_sampler
from ivid.sample.keys import Sample, sample_keys
from ivid.sample.meshes import mesh_spec, mesh_text, open_mesh
from ivid.sample.plan import plan_tiles
from ivid.sample.requests import Draw, make_request, repeat_request
from ivid.sample.runner import Clip
from ivid.sample.saving import flags_to_go_on
from ivid.sample.tiling import stage_tiling, tile_stage
from ivid.spec.clip import ClipShape
from ivid.spec.errors import UserError
from ivid.spec.run import MeshSpec
from ivid.spec.sampling import GuidanceSpec, SamplerKind, SamplingSpec, ThresholdKind
from ivid.spec.stage import LevelSpec, LowresSpec, Norm, StageSpec, Task, TimeMixing, UNetSpec
from ivid.stage import Stage
from tests.sample import tiny

ROUNDING = 1e-5  # of values in [-1, 1]: measured are at most 4e-6
CONV, ATTENTION = TimeMixing.CONVOLUTION, TimeMixing.ATTENTION
COMMON = dict(embed_dim=16, head_dim=4, text_dim=16)
BASE_LEVELS = (LevelSpec(8, time=ATTENTION), LevelSpec(8, time=ATTENTION, spatial_attention=True, cross_attention=True))
BASE = StageSpec("base", Task.BASE, ClipShape(8, 8, 12, 3.0), UNetSpec(BASE_LEVELS, **COMMON, norm_groups=4, given=True))
# As the last stage of a cascade is: convolutions and norms by position, the text read at the coarsest level, in patches.
SSR_LEVELS = (LevelSpec(4, time=CONV), LevelSpec(8, time=CONV, cross_attention=True))
SSR_UNET = UNetSpec(SSR_LEVELS, **COMMON, norm=Norm.RMS, patch=2)
SSR = StageSpec("ssr3", Task.SSR, ClipShape(8, 32, 24, 24.0), SSR_UNET, lowres=LowresSpec(input=ClipShape(8, 8, 6, 24.0)))
TSR = dataclasses.replace(SSR, name="tsr1", task=Task.TSR, lowres=LowresSpec(input=ClipShape(4, 32, 24, 12.0)))
GUIDED = GuidanceSpec(weight=1.0)


def draw(spec, sampling, *, mesh="", rows=1, **options):
  rng = np.random.default_rng(0)
  small = None if spec.lowres is None else rng.uniform(-1, 1, (rows, *spec.lowres.input.array)).astype(np.float32)
  return stage_sampler.sample_stage(
    Stage(spec),
    tiny.random_params(spec, 1),
    keys=sample_keys([Sample("a red ball", 0, n) for n in range(rows)], spec.name),
    text=rng.standard_normal((rows, 1, 5, 16)).astype(np.float32),
    text_mask=np.ones((rows, 1, 5), bool),
    small=small,
    sampling=sampling,
    mesh=open_mesh(mesh),
    **options,
  )


@pytest.fixture(autouse=True, scope="module")
def eight_devices():
  if jax.device_count() < 8:
    pytest.skip("needs 8 devices")


@pytest.mark.parametrize(
  "spec, rows, sampling, meshes",
  [
    (BASE, 8, SamplingSpec(steps=2, guidance=GUIDED, threshold=ThresholdKind.DYNAMIC), ["fsdp=8"]),
    pytest.param(BASE, 8, SamplingSpec(steps=2, guidance=GUIDED), ["data=2,fsdp=2,tensor=2"], marks=pytest.mark.slow),
    (SSR, 1, SamplingSpec(steps=3, sampler=SamplerKind.ANCESTRAL, guidance=GUIDED), ["frames=8", "height=8"]),
    pytest.param(SSR, 2, SamplingSpec(steps=3, sampler=SamplerKind.DPM_SOLVER_PP_2M), ["data=2,frames=2,height=2"], marks=pytest.mark.slow),
    pytest.param(TSR, 1, SamplingSpec(steps=2), ["frames=8"], marks=pytest.mark.slow),
  ],
)
def test_one_device_equals_eight(spec, rows, sampling, meshes):
  one = draw(spec, sampling, rows=rows)
  assert one.std() > 0.1
  for mesh in meshes:
    np.testing.assert_allclose(draw(spec, sampling, mesh=mesh, rows=rows), one, atol=ROUNDING, rtol=0, err_msg=mesh)


def test_given_frames_of_a_clip_that_is_cut():
  frames, mask = np.full((1, *BASE.output.array), 0.25, np.float32), np.zeros((1, 8), bool)
  mask[0, :3] = True
  one, cut = (draw(BASE, SamplingSpec(steps=2), mesh=mesh, given=(frames, mask)) for mesh in ("", "frames=4"))
  np.testing.assert_allclose(cut, one, atol=ROUNDING, rtol=0)
  np.testing.assert_array_equal(cut[0, :3], frames[0, :3])


@pytest.mark.parametrize("shape, origin", [((16, 32, 40, 3), None), ((8, 16, 12, 3), None), ((4, 20, 6, 3), [3, 8, 5])])
def test_noise_is_the_same_bits_however_it_is_cut(shape, origin):
  keys = sample_keys([Sample("a red ball", 0, n) for n in range(2)], "base")
  place = {} if origin is None else dict(origin=np.array(origin, np.int32), aligned=False)
  whole = np.asarray(running.draw_noise(keys, shape, 0, **place))
  for mesh in ("frames=4", "height=4", "data=2,frames=2,height=2"):
    cut = running.draw_noise(keys, shape, 0, mesh=open_mesh(mesh), **place)
    np.testing.assert_array_equal(np.asarray(cut), whole, err_msg=mesh)
    assert cut.addressable_shards[0].data.size == whole.size // cut.sharding.mesh.size


@pytest.mark.parametrize(
  "name, weight, mesh",
  [
    ("ssr1", 0.0, MeshSpec(data=1, frames=4)),
    pytest.param("tsr1", 2.0, MeshSpec(data=2, height=2), marks=pytest.mark.slow),
    pytest.param("base", 1.0, MeshSpec(data=1, fsdp=2, frames=2), marks=pytest.mark.slow),
  ],
)
def test_what_the_compile_report_lowers_is_what_runs(name, weight, mesh, monkeypatch):
  override = f"cascade.stages.{name}.sampling.guidance.weight={weight}"
  run = load_run(f"tiny:{name}", [override, f"cascade.stages.{name}.sampling.sampler=ancestral"])
  spec, devices = run.cascade.stage(name), make_mesh(mesh, jax.devices()[: mesh.data * mesh.fsdp * mesh.frames * mesh.height])
  program, clips, _ = make_program(run, "sample", devices)
  reported, ran = program.lower().as_text(), []
  assert clips == mesh.data * mesh.fsdp and "sdy.sharding" in reported

  def jit(program, undisturbed=Program.jit):
    call = undisturbed(program)

    def recorded(*args):
      if program.name == f"sample_{name}":
        ran.append(call.lower(*args).as_text())
      return call(*args)

    return recorded

  monkeypatch.setattr(Program, "jit", jit)
  programs.compiled_programs.cache_clear()
  tokens = (clips, 1, run.cascade.text.max_tokens)
  stage_sampler.sample_stage(
    Stage(spec),
    tiny.random_params(spec, 1),
    keys=sample_keys([Sample("a", 0, n) for n in range(clips)], name),
    text=np.zeros((*tokens, spec.unet.text_dim), jax.numpy.bfloat16),
    text_mask=np.ones(tokens, bool),
    small=None if spec.lowres is None else np.zeros((clips, *spec.lowres.input.array), np.float32),
    sampling=spec.sampling,
    mesh=open_mesh(mesh),
  )
  programs.compiled_programs.cache_clear()
  assert ran == [reported] * spec.sampling.steps  # in the second step, too, that takes what the first gives


def test_the_report_says_how_it_is_sampled():
  sampled = dict(sampler="ddim", threshold="static", guidance=[15.0, 1.0], evaluations=2)
  report = dict(
    stage="base", program="sample", clips=1, topology="v5p:2x2x1", slices=1, chips=4, mesh={"frames": 4}, parameters=1, model_flops=1e12
  )
  report |= dict(bytes_per_chip=dict(total=1, hbm=1, arguments=1, temporaries=1), lower_seconds=1, compile_seconds=1, collectives={})
  report |= dict(between_slices={"all-reduce": dict(count=3, bytes=2e9)})
  lines = format_report(report | dict(sampling=sampled, fit_only=True)).splitlines()
  assert "sampling     ddim, threshold static, guidance weight 15:1: 2 evaluations per step" in lines
  assert "network      all-reduce              3 x,     2.00 GB sent by each chip between slices" in lines
  assert "sampling" not in format_report(report | dict(sampling=None, program="train", fit_only=True))


def test_what_meshes_are_opened_from():
  for wanted in ("frames=2,height=2", {"frames": 2, "height": 2}, MeshSpec(data=1, frames=2, height=2)):
    mesh = open_mesh(wanted)
    assert mesh_text(mesh_spec(mesh)) == "frames=2,height=2" and list(mesh.devices.flat) == jax.devices()[:4]
    assert open_mesh(mesh) is mesh
  assert mesh_spec(open_mesh("data=-1,frames=2")) == MeshSpec(data=4, frames=2)
  assert open_mesh("") is None and open_mesh(None) is None and mesh_text(mesh_spec(None)) == ""


@pytest.mark.parametrize(
  "mesh, options, message",
  [
    ("frmaes=4", {}, "mesh frmaes=4: unknown axis 'frmaes': did you mean 'frames'"),
    ({"width": 2}, {}, "mesh width=2: unknown axis 'width': expected one of data, fsdp, tensor, frames, height"),
    ("frames", {}, "mesh frames=: expected a number of devices, such as frames=4"),
    ("frames=two", {}, "mesh frames=two: expected a number of devices, such as frames=4"),
    ({"frames": 2.0}, {}, "mesh frames=2.0: expected a number of devices"),
    ("frames=2,frames=4", {}, "axis frames has 2 already: expected it once"),
    ("frames=0", {}, "expected positive sizes"),
    ("frames=4,height=4", {}, "mesh frames=4,height=4 takes 16 devices: expected at most 8, as many as there are here"),
    ("frames=4", {}, "mesh frames=4 does not divide the frames=2 of stage base: expected frames=2 for all stages that run"),
    ("frames=4", dict(stop="base"), "mesh frames=4 does not divide the frames=2 of stage base: expected frames=2"),
    ("height=3", dict(stop="base"), "mesh height=3 does not divide the height=8 of stage base: expected height=2"),
    ("data=2", {}, "a batch of 1 clips on a mesh of 2 rows: expected multiples of 2 clips and batch_size=2"),
    ("fsdp=2", dict(batch_size=3), "a batch of 1 clips on a mesh of 2 rows"),
  ],
)
def test_wrong_meshes_are_answered_before_any_work(cascade, mesh, options, message):
  with pytest.raises(UserError) as error:
    make_request(cascade, Draw(("a red ball",)), mesh=mesh, **options)
  assert message in str(error.value) and "\n" not in str(error.value)


def test_wrong_meshes_elsewhere():
  with pytest.raises(UserError, match="mesh of axes x: expected data, fsdp, tensor, frames, height, as make_mesh gives them"):
    open_mesh(jax.make_mesh((2,), ("x",)))
  with pytest.raises(UserError, match="mesh frames=8 does not divide the frames=4 of stage base: expected frames=4"):
    make_program(load_run("tiny:base"), "sample", open_mesh("frames=8"))


def test_a_clip_that_is_cut_is_computed_whole():
  large = dataclasses.replace(SSR, output=ClipShape(64, 4096, 4096, 24.0), lowres=LowresSpec(input=ClipShape(64, 1024, 1024, 24.0)))
  assert stage_tiling(large).count > 1 and stage_tiling(large, cut=True).count == 1
  assert plan_tiles([large], (0, 0, 0), functools.partial(stage_tiling, cut=True)) == {"ssr3": (0, 0, 0)}
  with pytest.raises(UserError, match="tile=32x0x0 of stage ssr3: a mesh with frames or height cuts whole clips: expected no tile"):
    plan_tiles([large], {"ssr3": (32, 0, 0)}, functools.partial(stage_tiling, cut=True))
  with pytest.raises(UserError, match="tiles of stage ssr3 on a mesh that cuts its clips: expected whole clips"):
    draw(SSR, SamplingSpec(steps=1), mesh="height=2", tiling=tile_stage(large, (32, 0, 0)))


def made_clip(cascade, mesh, name="ssr1"):
  """A clip as if it had been sampled on the mesh, and its metadata."""
  stages = cascade.spec.stages
  clip = Clip(cascade.spec.stage(name), 0, np.zeros(cascade.spec.stage(name).output.array, np.uint8), 2, 1, mesh)
  return clip, outputs.clip_metadata(cascade, list(stages), Sample("a red ball", 3, 1), clip, tiles={}, source=None)


def test_metadata_say_the_mesh(cascade):
  _, metadata = made_clip(cascade, MeshSpec(data=1, frames=2))
  assert metadata["mesh"] == {"data": 1, "fsdp": 1, "tensor": 1, "frames": 2, "height": 1}
  request = repeat_request(cascade, json.loads(json.dumps(metadata)), said_by="a.json")
  assert mesh_spec(request.mesh) == MeshSpec(data=1, frames=2) and request.tiles["ssr1"] == (4, 16, 24)
  other = repeat_request(cascade, metadata, said_by="a.json", mesh="data=1")
  assert mesh_spec(other.mesh) == MeshSpec(data=1) and other.tiles == {}
  older = {key: value for key, value in metadata.items() if key != "mesh"} | {"format": 1}
  assert repeat_request(cascade, older, said_by="a.json").mesh is None


@pytest.mark.parametrize(
  "mesh, message",
  [
    ({"frames": 16}, "a.json was made on 16 devices, mesh frames=16, and there are 8 here: expected as many, or --mesh=data=1"),
    ({"frames": -1}, "mesh.frames=-1: expected 1 or more"),
    ({"frmaes": 2}, "unknown key 'mesh.frmaes': did you mean 'frames'"),
    ({"data": 4}, "a batch of 2 clips on a mesh of 4 rows"),
  ],
)
def test_metadata_of_a_mesh_that_is_not_here(cascade, mesh, message):
  _, metadata = made_clip(cascade, MeshSpec(data=1))
  with pytest.raises(UserError) as error:
    repeat_request(cascade, metadata | {"mesh": metadata["mesh"] | mesh}, said_by="a.json")
  assert message in str(error.value) and "\n" not in str(error.value)


def test_the_command_that_goes_on_has_the_axes_that_cut_a_clip(cascade, tmp_path):
  request = make_request(cascade, Draw(("a red ball", "a green cube")), mesh="data=2,frames=2")
  clip, _ = made_clip(cascade, mesh_spec(request.mesh), "base")
  found = flags_to_go_on(request, outputs.Outputs(str(tmp_path), "", clips=2), clip, {})
  assert request.batch_size == 2 and found["mesh"] == "frames=2"
