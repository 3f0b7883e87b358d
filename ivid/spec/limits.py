"""The most of everything that files and flags may ask for, each checked before memory is taken for it."""

from __future__ import annotations

MOST_SAMPLING_STEPS = 10_000  # ten times those of DDPM (2006.11239); beyond, neighbouring times hardly differ in float32
MOST_RESAMPLINGS = 1000  # of one step: a hundred times RePaint's (2201.09865)
MOST_UPDATES = 2**31 - 1  # a training state counts them in int32
MOST_CLIPS = 65_536  # of one batch: as many as the largest batches that image and text models are trained on
MOST_SAMPLES = 100_000  # of one request: twice the 50,000 that Frechet distances are computed from
MOST_SIDE = 16_384  # pixels of a picture's side: as many as H.264 and HEVC encode
MOST_FRAMES = 1_000_000  # of a clip: nine hours at 30 a second
MOST_FPS = 1000.0  # frames of a high-speed camera
MOST_CHANNELS = 65_536  # of a layer: T5-XXL's widest has 10,240
MOST_LAYERS = 256  # of a network: the deepest published T5 has 48
MOST_LEVELS = 16  # of a U-Net: 2^15 pixels shrink to one
MOST_TOKENS = 16_384  # of a caption: attention takes heads x tokens^2 values
MOST_VOCABULARY = 1 << 22  # rows of an embedding: mT5's 250,112 are the most of any T5
MOST_PROCESSES = 1 << 20  # of a run, or devices: far beyond any that there is
LARGEST_SEED = 2**63 - 1  # JAX's keys take no more
LARGEST_NUMBER = 1e9  # of a value that has no scale of its own: its square is far from float32's largest
LARGEST_JSON = 1 << 26  # bytes: a data set's description has some 10 for each shard, an index of weights some 100 for each parameter
DEEPEST_FILE = 64  # dictionaries and lists one inside the other, in JSON and msgpack: our specs have 7, T5X's checkpoints 10
