"""Logical axis names: every parameter and every pinned activation carries these; `ivid.parallel` maps them to a mesh."""

# Parameters. A kernel is (..., input, output); scanned blocks put LAYERS first.
LAYERS = "layers"  # identical blocks of a level, scanned: never sharded
CONV_H = "conv_h"  # kernel positions
CONV_W = "conv_w"
CONV_T = "conv_t"
EMBED_IN = "embed_in"  # channels a kernel reads: the axis to shard over fsdp
EMBED_OUT = "embed_out"  # channels a kernel writes
COND = "cond"  # conditioning vector (UNetSpec.embed_dim)
FEATURES = "features"  # sinusoids of a scalar
TEXT = "text"  # text embedding (UNetSpec.text_dim)
PIXELS = "pixels"  # channels of one patch of the picture, few and odd: leave whole
HEAD_DIM = "head_dim"
CHANNELS = "channels"  # vectors: biases, norm gains

PARAMETER_AXES = (LAYERS, CONV_H, CONV_W, CONV_T, EMBED_IN, EMBED_OUT, COND, FEATURES, TEXT, PIXELS, HEAD_DIM, CHANNELS)

# Activations [B, T, H, W, C], pinned at the edges of blocks.
BATCH = "batch"
FRAMES = "frames"
HEIGHT = "height"
WIDTH = "width"
ACTIVATION_CHANNELS = "activation_channels"

ACTIVATION_AXES = (BATCH, FRAMES, HEIGHT, WIDTH, ACTIVATION_CHANNELS)
