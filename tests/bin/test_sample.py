"""ivid sample: what it writes, that its metadata makes the clip again, and what it answers to wrong input."""

import json
import pathlib
import shlex
import subprocess
import sys

import numpy as np
import pytest

from ivid import __main__ as command_line
from ivid.media.clips import read_clip, read_metadata, write_clip
from ivid.media.pictures import write_png
from tests.sample import tiny

ROOT = pathlib.Path(__file__).parents[2]
PROMPT = "--prompt=a red ball"
# What is said of a command line that cannot be read; any other line is about a value.
USAGE = ("no prompt:", "--prompt=", "--caption=", "Unknown command line flag", "unexpected argument", "--given beside")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tiny.write_tiny(tmp_path_factory.mktemp("cascades")).folder


@pytest.fixture
def sample(folder, tmp_path, monkeypatch, capsys):
  """sample(*flags) -> (status, printed paths, lines of stderr), in an empty folder."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.delenv(command_line.TRACEBACK, raising=False)
  monkeypatch.setattr("ivid.runs.cache.enable_compilation_cache", lambda: None)  # the tests have their own

  def run(*flags, cascade=folder):
    size = [] if any("from_metadata" in flag for flag in flags) else ["--batch_size=1"]
    status = command_line.main(["sample", f"--cascade={cascade}", *size, *flags])
    captured = capsys.readouterr()
    return status, [pathlib.Path(line) for line in captured.out.splitlines()], captured.err.splitlines()

  return run


def test_a_clip_and_its_json(sample, folder):
  status, paths, _ = sample(PROMPT, "--seed=3")
  assert status == 0 and [str(p) for p in paths] == ["out/a-red-ball-s3-0.mp4"]
  clip, fps = read_clip(paths[0])
  assert clip.shape == tiny.LARGE.array and fps == tiny.LARGE.fps
  beside = json.loads(paths[0].with_suffix(".json").read_text())
  assert beside == read_metadata(paths[0])
  assert (beside["prompt"], beside["seed"], beside["sample"], beside["fps"]) == ("a red ball", 3, 0, 4.0)
  assert [(s["name"], s["trained_steps"], s["sampling"]["steps"]) for s in beside["stages"]] == [
    ("base", 100, 3),
    ("tsr1", 101, 3),
    ("ssr1", 102, 2),
  ]
  assert sorted(p.name for p in paths[0].parent.iterdir()) == ["a-red-ball-s3-0.json", "a-red-ball-s3-0.mp4"]


def test_clips_named_for_vbench(sample):
  flags = ("--prompt=A red ball.", "--prompt=black/white", "--names=vbench", "--num_samples=2")
  status, paths, errors = sample(*flags)
  names = [path.name for path in paths]
  changed = names[2].removesuffix("-0.mp4")
  assert status == 0 and names == ["A red ball.-0.mp4", "A red ball.-1.mp4", f"{changed}-0.mp4", f"{changed}-1.mp4"]
  assert f"prompt 'black/white' is unfit for a file's name: its clips are named '{changed}'" in errors[0] and changed.startswith(
    "black_white~"
  )
  assert [read_metadata(path)["prompt"] for path in paths[1:3]] == ["A red ball.", "black/white"]


def test_metadata_makes_the_clip_again(sample):
  _, (path,), _ = sample(PROMPT, "--seed=5", "--steps=base=4", "--guidance=2", "--aug_snr=3", "--format=png")
  for source in (path, path.with_suffix(".json")):
    status, (again,), _ = sample(f"--from_metadata={source}", "--out=again", "--format=png")
    assert status == 0
    assert again.read_bytes() == path.read_bytes()
  status, _, errors = sample(f"--from_metadata={path}", "--seed=6")
  assert status == 2 and errors == ["ivid sample: error: --seed beside --from_metadata: the metadata decides it"]


def test_a_clip_over_two_devices(sample):
  flags = (PROMPT, "--stop_stage=tsr1", "--format=png")
  (_, (one,), _), (_, (cut,), _) = sample(*flags, "--out=one"), sample(*flags, "--mesh=frames=2", "--out=cut")
  assert np.abs(read_clip(cut)[0].astype(int) - read_clip(one)[0]).max() <= 1  # a value within rounding of the border between two bytes
  assert [read_metadata(path)["mesh"]["frames"] for path in (one, cut)] == [1, 2]
  _, (again,), _ = sample(f"--from_metadata={cut}", "--out=again", "--format=png")
  assert again.read_bytes() == cut.read_bytes()
  _, (alone,), _ = sample(f"--from_metadata={cut}", "--mesh=data=1", "--out=alone", "--format=png")
  np.testing.assert_array_equal(read_clip(alone)[0], read_clip(one)[0])
  assert read_metadata(alone)["mesh"]["frames"] == 1


def test_stages_saved_and_entered_again(sample):
  _, paths, _ = sample(PROMPT, "--save_stages", "--format=png", "--out=full")
  names = ["a-red-ball-s0-0-base.png", "a-red-ball-s0-0-tsr1.png", "a-red-ball-s0-0.png"]
  assert [p.name for p in paths] == names
  status, (last,), _ = sample(PROMPT, "--start_stage=ssr1", f"--input={paths[1]}", "--format=png", "--out=part")
  assert status == 0
  np.testing.assert_array_equal(read_clip(last)[0], read_clip(paths[2])[0])
  assert read_metadata(last)["input"]["file"] == str(paths[1])
  _, (again,), _ = sample(f"--from_metadata={last}", "--out=again", "--format=png")
  assert again.read_bytes() == last.read_bytes()


def test_a_clip_of_any_size_and_length_enters(sample, tmp_path):
  rng = np.random.default_rng(0)
  write_clip(tmp_path / "mine.mp4", rng.integers(0, 256, (40, 50, 62, 3), np.uint8), 20.0)
  status, (path,), errors = sample("--input=mine.mp4", "--start_stage=tsr1", "--tile=tsr1=6x0x0", "--format=png")
  assert status == 0 and str(path) == "out/clip-s0-0.png"
  clip, fps = read_clip(path)
  assert clip.shape == (8, 16, 24, 3) and fps == 4.0  # two seconds at 2 frames a second, twice as many in tsr1
  assert [stage["tile"] for stage in read_metadata(path)["stages"]] == [[6, 8, 12], [8, 16, 24]]
  _, (whole,), _ = sample("--input=mine.mp4", "--start_stage=tsr1", "--format=png", "--out=whole")
  assert np.abs(read_clip(whole)[0].astype(int) - clip).max() <= 1
  changes = read_metadata(path)["input"]["changes"]
  assert [line.removeprefix("--input=mine.mp4: ") for line in errors if line.startswith("--input")] == changes
  assert changes[0].startswith("cut 9 of 50 rows") and changes[2].startswith("resampled 40 frames (20 frames a second, 2 s) to 4")
  _, (again,), _ = sample(f"--from_metadata={path}", "--out=again", "--format=png")
  assert again.read_bytes() == path.read_bytes()
  _, (said,), _ = sample("--input=mine.mp4", "--start_stage=tsr1", "--caption=a red ball", "--format=png")
  assert read_metadata(said)["prompt"] == "a red ball" and not np.array_equal(read_clip(said)[0], clip)
  write_clip(tmp_path / "picture.png", rng.integers(0, 256, (1, 8, 12, 3), np.uint8), 4.0)
  _, (path,), _ = sample("--input=picture.png", "--start_stage=ssr1", "--format=png")
  assert read_clip(path)[0].shape == (1, 16, 24, 3)


def test_a_first_frame_and_a_length(sample, tmp_path):
  photo = np.random.default_rng(0).integers(0, 256, (10, 12, 3), np.uint8)
  write_png(tmp_path / "photo.png", photo)
  options = ("--stop_stage=base", "--format=png")
  status, (path,), errors = sample(PROMPT, "--first_frame=photo.png", "--seconds=2.1", *options)
  assert status == 0 and errors[:2] == [
    "--seconds=2.1: made 2, 4 frames of stage base at 2 a second",
    "given photo.png: cut 2 of 10 rows to an aspect of 1.5",
  ]
  clip, metadata = read_clip(path)[0], read_metadata(path)
  assert len(clip) == 4 and metadata["given"]["sources"][0]["frames"] == [0]
  np.testing.assert_array_equal(clip[0], photo[1:9])
  _, (again,), _ = sample(f"--from_metadata={path}", "--out=again", "--format=png")
  assert again.read_bytes() == path.read_bytes()
  _, (goes_on,), _ = sample(PROMPT, f"--given={path}:0-2", "--seconds=3", *options)
  np.testing.assert_array_equal(read_clip(goes_on)[0][:3], clip[:3])


def test_ctrl_c_leaves_finished_stages(sample, monkeypatch):
  """And the command that is printed ends with the clip that the undisturbed run makes."""
  from ivid.sample import longer as running

  options = ["--seed=2", "--num_samples=2", "--steps=base=4,ssr1=3", "--guidance=1.5", "--format=png"]
  _, whole, _ = sample(PROMPT, *options, "--out=whole")
  undisturbed = running.sample_stage

  def interrupted(stage, *args, **options):
    if stage.spec.name == "ssr1":
      raise KeyboardInterrupt
    return undisturbed(stage, *args, **options)

  monkeypatch.setattr(running, "sample_stage", interrupted)
  status, paths, errors = sample(PROMPT, *options)
  assert status == 130 and paths == []
  assert errors[-3] == "interrupted in stage ssr1; the stage before it is saved without loss. To go on:"
  assert sorted(path.name for path in pathlib.Path("out").glob("*.png")) == ["a-red-ball-s2-0-tsr1.png", "a-red-ball-s2-1-tsr1.png"]
  monkeypatch.setattr(running, "sample_stage", undisturbed)
  for line, want in zip(errors[-2:], whole, strict=True):
    command = shlex.split(line)
    assert command[:2] == ["ivid", "sample"]
    status, (path,), _ = sample(*command[2:])
    assert status == 0
    np.testing.assert_array_equal(read_clip(path)[0], read_clip(want)[0])


def test_ctrl_c_while_the_last_clip_is_written(sample, monkeypatch):
  from ivid.sample.outputs import Outputs

  undisturbed = Outputs.save

  def interrupted(self, stem, *args, **options):
    if "tsr1" not in stem:
      raise KeyboardInterrupt
    return undisturbed(self, stem, *args, **options)

  monkeypatch.setattr(Outputs, "save", interrupted)
  status, paths, errors = sample(PROMPT)
  assert status == 130 and paths == [] and "--start_stage=ssr1" in errors[-1]


def test_prompts_file_samples_and_sheet(sample, tmp_path):
  (tmp_path / "prompts.txt").write_text("a red ball\n\na green cube\na red ball\n", encoding="utf-8")
  status, paths, errors = sample("--prompts_file=prompts.txt", "--num_samples=2", "--stop_stage=base", "--contact_sheet", "--format=gif")
  assert status == 0
  stems = [f"a-{what}-s0-{n}.gif" for what in ("red-ball", "green-cube") for n in (0, 1)]
  assert [p.name for p in paths] == [*stems, "contact_sheet.png"]
  assert len({p.read_bytes() for p in paths}) == 5
  assert read_clip(paths[0])[0].shape == tiny.BASE.array


def test_no_file_is_lost(sample):
  base = (PROMPT, "--stop_stage=base", "--format=png")
  _, (first,), _ = sample(*base)
  old = first.read_bytes()
  _, (same,), _ = sample(*base)
  assert same == first and first.read_bytes() == old
  _, (other,), _ = sample(*base, "--steps=1")
  assert other.name == "a-red-ball-s0-0_2.png" and first.read_bytes() == old
  _, (replaced,), _ = sample(*base, "--steps=1", "--overwrite")
  assert replaced == first and first.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("lost", ["json", "mp4"])
def test_half_a_pair_is_completed(sample, lost):
  """As a process leaves it that is killed between the clip and its JSON."""
  flags = (PROMPT, "--stop_stage=base")
  _, (path,), _ = sample(*flags)
  whole = {file.name: file.read_bytes() for file in path.parent.iterdir()}
  path.with_suffix(f".{lost}").unlink()
  _, (again,), _ = sample(*flags)
  assert again == path and {file.name: file.read_bytes() for file in path.parent.iterdir()} == whole


def test_a_clip_of_the_same_is_not_replaced_for_its_json(sample):
  """Another encoder's bytes, with the same metadata in them; but a clip of something else is no half of this pair."""
  flags = (PROMPT, "--stop_stage=base")
  _, (path,), _ = sample(*flags)
  clip, fps = read_clip(path)
  write_clip(path, clip, fps, metadata=read_metadata(path), crf=30)
  kept, beside = path.read_bytes(), path.with_suffix(".json").read_bytes()
  path.with_suffix(".json").unlink()
  _, (again,), _ = sample(*flags)
  assert again == path and path.read_bytes() == kept and path.with_suffix(".json").read_bytes() == beside
  path.with_suffix(".json").unlink()
  _, (other,), _ = sample(*flags, "--steps=1")
  assert other.name == "a-red-ball-s0-0_2.mp4" and path.read_bytes() == kept


def test_overwrite_spares_the_files_of_its_own_run(sample):
  prompts = [f"--prompt={text}" for text in ("a red ball", "a red, ball", "a red ball!", "A red ball.")]
  flags = (*prompts, "--stop_stage=base", "--format=png", "--overwrite")
  for _ in range(2):
    _, paths, _ = sample(*flags)
    assert [path.name for path in paths] == [f"a-red-ball-s0-0{end}.png" for end in ("", "_2", "_3", "_4")]
    assert [read_metadata(path)["prompt"] for path in paths] == [prompt[9:] for prompt in prompts]
    assert len(list(paths[0].parent.iterdir())) == 8


def test_one_file(sample, tmp_path):
  status, (path,), _ = sample(PROMPT, "--stop_stage=base", f"--out={tmp_path / 'ball.webm'}")
  assert status == 0 and path == tmp_path / "ball.webm" and read_clip(path)[1] == 2


def test_untrained_tail_is_said(sample, folder, tmp_path):
  part = tmp_path / "part"
  part.mkdir()
  for name in ("base", "text", "cascade.json"):
    (part / name).symlink_to(folder / name)
  status, (path,), errors = sample(PROMPT, "--format=png", cascade=part)
  assert status == 0 and "stopping at base, the last trained stage of cascade tiny" in errors
  assert read_clip(path)[0].shape == tiny.BASE.array
  status, _, errors = sample(PROMPT, "--stop_stage=ssr1", cascade=part)
  assert status == 1 and errors[0].startswith("ivid sample: error: stage tsr1 of cascade tiny was never trained: ")


def test_long_prompt_is_truncated_with_a_warning(sample):
  status, _, errors = sample("--prompt=" + "very " * 20 + "long", "--stop_stage=base", "--format=png")
  assert status == 0
  assert [e for e in errors if "warning" in e and "truncated to the limit of 24" in e]


@pytest.mark.parametrize(
  "flags, line",
  [
    ([], "no prompt: expected --prompt="),
    (["--prompt= "], "--prompt=' ' is empty"),
    ([PROMPT, "--prompts_file=nowhere.txt"], "no prompts file at nowhere.txt"),
    (["--prompts_file=empty.txt"], "empty.txt holds no prompt"),
    (["--prompts_file=latin.txt"], "latin.txt is not UTF-8: "),
    ([PROMPT, "--num_samples=0"], "--num_samples=0: expected 1 or more"),
    ([PROMPT, "--stop_stage=tsr9"], "unknown stage 'tsr9': did you mean 'tsr1'?"),
    ([PROMPT, "--steps=0"], "steps=0: expected 1 or more"),
    ([PROMPT, "--steps=ssr2=4"], "steps=ssr2=4: no stage 'ssr2' that runs takes it: did you mean"),
    ([PROMPT, "--sampler=dimm"], "unknown sampler 'dimm': did you mean 'ddim'?"),
    ([PROMPT, "--format=mpg"], "unknown format 'mpg': did you mean"),
    ([PROMPT, "--format=gif", "--out=a.mp4"], "format=gif contradicts out=a.mp4"),
    ([PROMPT, "--num_samples=2", "--out=a.mp4"], "out=a.mp4 is one file for 2 clips"),
    ([PROMPT, "--out=empty.txt/clips"], "cannot write empty.txt/clips"),
    ([PROMPT, "--start_stage=ssr1"], "--start_stage=ssr1 needs --input=clip; it takes 4x8x12@4fps"),
    ([PROMPT, "--start_stage=ssr1", "--input=nowhere.mp4"], "no clip at nowhere.mp4"),
    (["--caption=a red ball"], "--caption='a red ball' says what --input shows"),
    ([PROMPT, "--tile=8"], "tile=8: expected FRAMESxHEIGHTxWIDTH such as 32x768x1280"),
    ([PROMPT, "--tile=base=1x0x0"], "tile frames=1: stage base takes frames whole: its network attends over time"),
    (["--start_stage=ssr1", "--input=empty.txt"], "empty.txt is no clip that can be read"),
    ([PROMPT, "--input=a.mp4"], "--input=a.mp4: stage base starts from noise alone"),
    ([PROMPT, "--seconds=soon"], "--seconds=soon: expected a number of seconds such as 20"),
    ([PROMPT, "--seconds=0.1"], "--seconds=0.1 is less than a frame of stage base: expected 0.5 or more"),
    ([PROMPT, "--first_frame=nowhere.jpg"], "no clip at nowhere.jpg"),
    ([PROMPT, "--given=empty.txt:0-x"], "--given=empty.txt:0-x: cannot read the frames '0-x'"),
    ([PROMPT, "--given=empty.txt:0-7"], "--given=empty.txt:0-7: frame 7 is none of the base's: expected 0 to 1"),
    (["--from_metadata=a.json", "--given=a.mp4"], "--given beside --from_metadata: the metadata decides it"),
    (["--from_metadata=nowhere.json"], "no metadata at nowhere.json"),
    (["--from_metadata=empty.json"], "empty.json carries no metadata of ivid sample: missing key 'prompt'"),
    ([PROMPT, "--seeed=1"], "Unknown command line flag 'seeed'"),
    ([PROMPT, "extra"], "unexpected argument 'extra'"),
  ],
)
def test_wrong_input_is_one_line_and_writes_nothing(sample, tmp_path, flags, line):
  (tmp_path / "empty.txt").write_text("\n")
  (tmp_path / "empty.json").write_text("{}")
  (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
  before = sorted(tmp_path.iterdir())
  status, paths, errors = sample(*flags)
  assert status == (2 if line.startswith(USAGE) else 1) and paths == [] and len(errors) == 1
  assert errors[0].removeprefix("ivid sample: error: ").startswith(line)
  assert sorted(tmp_path.iterdir()) == before


def test_unknown_cascade_and_damaged_weights(sample, tmp_path):
  status, _, errors = sample(PROMPT, cascade="nanoo")
  assert status == 1 and errors[0].startswith("ivid sample: error: no cascade 'nanoo'")
  damaged = tiny.write_tiny(tmp_path / "mine").folder
  path = damaged / "tsr1" / "weights.safetensors"
  path.write_bytes(path.read_bytes()[:-500])
  status, _, errors = sample(PROMPT, cascade=damaged)
  assert status == 1 and len(errors) == 1 and "weights.safetensors is truncated: " in errors[0]
  assert not (tmp_path / "out").exists()


def test_sampling_imports_no_training_library():
  """Fast start: neither at import nor when the runner itself is imported."""
  code = (
    "import sys, ivid.bin.sample, ivid.sample.outputs, ivid.sample.runner, ivid.sample.repeat, ivid.sample.plan, ivid.media.sheet\n"
    "heavy = {'tensorflow_datasets', 'grain', 'matplotlib', 'orbax', 'tensorflow', 'tensorboardX'} & set(sys.modules)\n"
    "assert not heavy, heavy"
  )
  run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
  assert run.returncode == 0, run.stderr
