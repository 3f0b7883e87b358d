"""Converts pictures of high dynamic range (HLG, PQ) and wide gamut (BT.2020) to BT.709 of standard range, neither dim nor pale.

Reference white, 203 cd/m^2 (BT.2408), becomes nearly white. Brighter light is rolled off above a knee, according to the largest of the
three colours, so that hues are preserved.
"""

from __future__ import annotations

import functools

import numpy as np

from ivid.media.picture import bands

HLG, PQ = 18, 16  # transfer characteristics, ITU-T H.273 table 3
BT2020 = 9  # colour primaries, H.273 table 2
WHITE = 203.0  # cd/m^2
HLG_PEAK, HLG_GAMMA = 1000.0, 1.2  # cd/m^2; gamma of the display that HLG names for that peak (BT.2100, note 5f)
KNEE = 0.75
DISPLAY_GAMMA = 2.4  # BT.1886
LUMA = np.array([0.2627, 0.6780, 0.0593], np.float32)  # of BT.2020
# BT.2087, table 1.
TO_BT709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32)


def is_wide(transfer: int, primaries: int) -> bool:
  """Whether pictures with these tags look wrong if they are taken for BT.709."""
  return transfer in (HLG, PQ) or primaries == BT2020


def to_bt709(codes: np.ndarray, transfer: int, primaries: int) -> np.ndarray:
  """uint16 [H, W, 3] of full range (65535 is the code 1) as uint8 [H, W, 3] in BT.709."""
  return np.concatenate([_band_to_bt709(codes[rows], transfer, primaries) for rows in bands(*codes.shape[:2])])


def _band_to_bt709(codes: np.ndarray, transfer: int, primaries: int) -> np.ndarray:
  if transfer == HLG:
    scene = _inverse_hlg()[codes]
    light = (HLG_PEAK / WHITE) * scene * np.maximum(scene @ LUMA, 1e-6)[..., None] ** (HLG_GAMMA - 1)
  elif transfer == PQ:
    light = _inverse_pq()[codes]
  else:
    light = (codes / np.float32(65535)) ** np.float32(DISPLAY_GAMMA)
  if primaries == BT2020:
    light = light @ TO_BT709.T
  light = np.maximum(light, 0)
  if transfer in (HLG, PQ):
    light = _rolled_off(light)
  return (np.minimum(light, 1) ** (1 / DISPLAY_GAMMA) * 255 + 0.5).astype(np.uint8)


def _rolled_off(light: np.ndarray) -> np.ndarray:
  most = light.max(-1, keepdims=True)
  rolled = KNEE + (1 - KNEE) * (1 - np.exp(-(most - KNEE) / (1 - KNEE)))
  return light * np.where(most > KNEE, rolled / np.maximum(most, 1e-6), 1)


@functools.cache
def _inverse_hlg() -> np.ndarray:
  """Scene light [65536] in [0, 1] per code value: the inverse of BT.2100's opto-electronic function, table 5."""
  a, b, c = 0.17883277, 0.28466892, 0.55991073
  code = np.arange(65536) / 65535
  return np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12).astype(np.float32)


@functools.cache
def _inverse_pq() -> np.ndarray:
  """Light [65536] in units of WHITE per code value: BT.2100, table 4."""
  m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 4096 * 128, 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
  root = (np.arange(65536) / 65535) ** (1 / m2)
  return (10_000 / WHITE * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)).astype(np.float32)
