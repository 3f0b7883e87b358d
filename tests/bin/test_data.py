import dataclasses

import numpy as np
import pytest
from PIL import Image

from ivid.bin.data import main
from ivid.config import load_run
from ivid.data.pipeline import Split, make_pipeline
from ivid.data.sizes import clip_shape
from ivid.parallel.mesh import make_mesh
from ivid.runs.samples import held_out_clips
from ivid.runs.text import open_text
from ivid.spec.cascade import TextSpec
from ivid.spec.prepare import process_of
from ivid.text.encoder import load_encoder, save_encoder
from ivid.text.stored import StoredEmbeddings
from ivid.train.run import device_batches, make_training
from ivid.weights.opening import text_encoder_folder
from tests.text import t5_trees


def test_inspect_writes_a_sheet(tmp_path, capsys):
  main(["ivid data", "inspect", "--config=tiny:ssr1", f"--out={tmp_path / 'sheet.png'}", "--num_clips=1"])
  with Image.open(tmp_path / "sheet.png") as image:
    picture = np.asarray(image)
  assert picture.shape[0] > 5 * 24 and picture.shape[1] > 8 * 40  # five rows of eight frames
  assert "sheet.png" in capsys.readouterr().out


def test_prepare_writes_a_data_set(tmp_path, capsys):
  main(["ivid data", "prepare", f"--out={tmp_path}", "--num_clips=2", "--num_test=1", "--size=4x12x20"])
  assert (tmp_path / "moving_shapes" / "4x12x20" / "1.0.0" / "dataset_info.json").is_file()
  assert "tfds:moving_shapes/4x12x20" in capsys.readouterr().out


def test_prepare_at_its_default_size(tmp_path, capsys):
  main(["ivid data", "prepare", f"--out={tmp_path}", "--num_clips=1", "--num_test=1"])
  assert "tfds:moving_shapes/16x24x40" in capsys.readouterr().out


def test_the_rate_follows_from_the_frames():
  assert clip_shape("16x24x40", None).fps == 3.0
  assert clip_shape("16x24x40", 6.0).fps == 6.0


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "expected one of inspect, prepare, import-t5"),
    (["inspct", "--out=a.png"], "did you mean 'inspect'"),
    (["inspect"], "--out is missing: expected a .png"),
    (["inspect", "--config=tiny:base", "--out=a.jpg"], "such as a.png"),
    (["inspect", "--config=tiny:ssr2", "--out=a.png"], "did you mean 'ssr1'"),
    (["prepare", "--out=a", "--size=3x4"], "such as 16x24x40"),
    (["prepare", "--out=a", "--sise=3x4"], "sise"),
  ],
)
def test_errors_are_one_line(arguments, message):
  with pytest.raises(ValueError, match=message) as error:
    main(["ivid data", *arguments])
  assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
  """The shipped encoder as T5X lays it out."""
  folder = tmp_path_factory.mktemp("t5x") / "checkpoint_0"
  main(["ivid data", "export-t5", "--from=nano", f"--out={folder}"])
  return folder


def test_export_and_import_bring_the_same_encoder_back(tmp_path, capsys, exported):
  kinds = ["--dtype=float32", "--param_dtype=bfloat16", "--max_tokens=128", "--name=nano"]
  main(["ivid data", "import-t5", f"--from={exported}", f"--out={tmp_path / 'again'}", *kinds])
  assert "nano, 5 layers of 256" in capsys.readouterr().out
  shipped = text_encoder_folder("nano")
  assert load_encoder(tmp_path / "again").hash == load_encoder(shipped).hash


def test_embed_once_then_read_without_t5(tmp_path, capsys, monkeypatch):
  main(["ivid data", "prepare", f"--out={tmp_path}", "--num_clips=2", "--num_test=1", "--size=4x12x20"])
  config = ["--config=tiny:base", "--config.data.name=tfds:moving_shapes", f"--config.data.dir={tmp_path}"]
  spec = TextSpec(name="wide", dim=256, layers=1, heads=2, head_dim=8, mlp_dim=16, max_tokens=128)
  save_encoder(tmp_path / "encoder", spec, t5_trees.nested(t5_trees.flat(spec=spec)))
  encoder = f"--config.data.text_encoder={tmp_path / 'encoder'}"
  main(["ivid data", "embed", *config, encoder, f"--out={tmp_path / 'embeddings'}", "--batch_size=3"])  # over all devices
  told = capsys.readouterr().out.split()[-1]
  overrides = [a.removeprefix("--config.") for a in [*config[1:], told, "--config.data.text_encoder=nowhere"]]
  monkeypatch.setattr("ivid.text.encoder.load_encoder", None)
  run = load_run("tiny:base", overrides)
  source = open_text(run)
  training = make_training(run.cascade.stage("base"), run.train, make_mesh(run.mesh), max_tokens=128)
  for split in (Split.TRAIN, Split.EVAL):
    host = make_pipeline(data=run.data, train=run.train, stage=run.cascade.stage("base"), split=split)
    batch_captions = next(make_pipeline(data=run.data, train=run.train, stage=run.cascade.stage("base"), split=split))["captions"]
    batch = next(device_batches(host, lambda captions: source.embed(captions, length=128), training.batch))
    assert batch["text"].shape == (8, 4, 128, 256) and batch["text_mask"].any(-1).all()
  shared = ["--shard_size=2", "--workers=2", f"--out={tmp_path / 'shared'}"]
  main(["ivid data", "embed", *config, encoder, *shared])  # by processes of their own
  again = StoredEmbeddings(tmp_path / "shared")
  said = [text for captions in batch_captions for text in captions]
  np.testing.assert_array_equal(again.embed(said)[1], source.embed(said)[1])
  np.testing.assert_allclose(again.embed(said)[0].astype(np.float32), source.embed(said)[0].astype(np.float32), atol=0.02)
  held_out = held_out_clips(run.cascade.stage("base"), run, source, 2)
  monkeypatch.undo()
  whole = load_encoder(tmp_path / "encoder")
  want, mask = whole.embed(held_out.captions, length=128)
  assert source.hash == whole.hash
  np.testing.assert_array_equal(held_out.mask, mask)
  np.testing.assert_allclose(held_out.text.astype(np.float32), want.astype(np.float32), atol=0.02)
  with pytest.raises(ValueError, match="gives embeddings of width 256, cascade tiny reads 16"):
    open_text(dataclasses.replace(run, cascade=dataclasses.replace(run.cascade, text=TextSpec(dim=16), stages=_narrow(run))))


def test_which_process():
  assert process_of("3/4") == (3, 4) and process_of("") is None


def _narrow(run):
  return tuple(dataclasses.replace(s, unet=dataclasses.replace(s.unet, text_dim=16)) for s in run.cascade.stages)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["import-t5", "--out=a"], "--from is missing: expected a T5X checkpoint or Hugging Face safetensors"),
    (["import-t5", "--from=nowhere", "--out=a"], "no checkpoint at nowhere: expected a T5X folder"),
    (["import-t5", "--from=x", "--out=a", "--dtype=float16"], "dtype"),
    (["import-t6", "--from=x", "--out=a"], "did you mean 'import-t5'"),
    (["export-t5", "--from=nowhere", "--out=a"], "no text encoder at nowhere"),
    (["embed", "--config=tiny:base", "--out=a"], "has no end of captions: expected tfds:NAME"),
    (["embed", "--config=tiny:base"], "--out is missing: expected a folder"),
    (["embed", "--config=tiny:base", "--out=a", "--process=4/4"], "--process=4/4: expected INDEX/COUNT with INDEX from 0 to COUNT - 1"),
  ],
)
def test_text_errors_are_one_line(arguments, message):
  with pytest.raises(ValueError, match=message) as error:
    main(["ivid data", *arguments])
  assert "\n" not in str(error.value)
