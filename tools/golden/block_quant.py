"""Simple quantisers for the GGUF block types that the `gguf` package can only read.

They round to nearest on a plain min/max grid. Their quality does not matter: golden logits are
computed on the dequantised weights (by `gguf.quants.dequantize`, the independent definition of what
the bytes mean), so any valid block is a good test. Byte layouts: Q4_K, Q5_K and Q6_K as documented
for ggml (super-blocks of 256 elements).
"""

import numpy as np
from gguf import GGMLQuantizationType as QT
from gguf import quants


def _f16_bytes(values):
    """SHAPE: [n] -> [n, 2] bytes."""
    return np.ascontiguousarray(values.astype(np.float16)).view(np.uint8).reshape(-1, 2)


def _affine_codes(blocks, code_max):
    """Codes, scales and minimums of 8 sub-blocks of 32: x = d * sc * code - dmin * m.

    Returns (d bytes, dmin bytes, scales [n, 8], mins [n, 8], codes [n, 8, 32]).
    """
    sub = blocks.reshape(-1, 8, 32)
    low = np.minimum(sub.min(axis=2), 0.0)
    step = (sub.max(axis=2) - low) / code_max
    d = (step.max(axis=1) / 63).astype(np.float16).astype(np.float32)
    dmin = (-low.min(axis=1) / 63).astype(np.float16).astype(np.float32)
    scales = np.clip(np.rint(step / np.maximum(d, 1e-30)[:, None]), 0, 63)
    mins = np.clip(np.rint(-low / np.maximum(dmin, 1e-30)[:, None]), 0, 63)
    effective = np.maximum(d[:, None] * scales, 1e-30)[:, :, None]
    offset = (dmin[:, None] * mins)[:, :, None]
    codes = np.clip(np.rint((sub + offset) / effective), 0, code_max).astype(np.uint8)
    return _f16_bytes(d), _f16_bytes(dmin), scales.astype(np.uint8), mins.astype(np.uint8), codes


def _pack_six_bit(scales, mins):
    """Eight 6-bit scales and eight 6-bit minimums in 12 bytes.

    Bytes 0..3: scale j | top bits of scale j + 4; bytes 4..7: the same for the minimums;
    bytes 8..11: low nibbles of scale and minimum j + 4.
    """
    out = np.zeros((scales.shape[0], 12), dtype=np.uint8)
    out[:, 0:4] = scales[:, :4] | ((scales[:, 4:] >> 4) << 6)
    out[:, 4:8] = mins[:, :4] | ((mins[:, 4:] >> 4) << 6)
    out[:, 8:12] = (scales[:, 4:] & 15) | ((mins[:, 4:] & 15) << 4)
    return out


def _quantize_q4_k(blocks):
    d, dmin, scales, mins, codes = _affine_codes(blocks, 15)
    pairs = codes.reshape(-1, 4, 2, 32)  # low nibbles: even sub-block, high nibbles: odd one
    packed = (pairs[:, :, 0] | (pairs[:, :, 1] << 4)).reshape(-1, 128)
    return np.concatenate([d, dmin, _pack_six_bit(scales, mins), packed], axis=1)


def _quantize_q5_k(blocks):
    d, dmin, scales, mins, codes = _affine_codes(blocks, 31)
    high = np.zeros((codes.shape[0], 32), dtype=np.uint8)
    for j in range(8):
        high |= (codes[:, j] >> 4) << j  # bit j of byte l: fifth bit of element l of sub-block j
    pairs = (codes & 15).reshape(-1, 4, 2, 32)
    packed = (pairs[:, :, 0] | (pairs[:, :, 1] << 4)).reshape(-1, 128)
    return np.concatenate([d, dmin, _pack_six_bit(scales, mins), high, packed], axis=1)


def _quantize_q6_k(blocks):
    sub = blocks.reshape(-1, 16, 16)
    step = np.abs(sub).max(axis=2) / 31
    d = (step.max(axis=1) / 127).astype(np.float16).astype(np.float32)
    scales = np.clip(np.rint(step / np.maximum(d, 1e-30)[:, None]), 0, 127)
    effective = np.maximum(d[:, None] * scales, 1e-30)[:, :, None]
    codes = (np.clip(np.rint(sub / effective), -32, 31) + 32).astype(np.uint8)
    quarter = codes.reshape(-1, 2, 4, 32)  # 128 elements: four runs of 32
    low = quarter & 15
    ql = np.concatenate([low[:, :, 0] | (low[:, :, 2] << 4), low[:, :, 1] | (low[:, :, 3] << 4)],
                        axis=2)
    top = quarter >> 4
    qh = top[:, :, 0] | (top[:, :, 1] << 2) | (top[:, :, 2] << 4) | (top[:, :, 3] << 6)
    n = codes.shape[0]
    return np.concatenate([ql.reshape(n, 128), qh.reshape(n, 64),
                           scales.astype(np.int8).view(np.uint8), _f16_bytes(d)], axis=1)


_OWN = {QT.Q4_K: _quantize_q4_k, QT.Q5_K: _quantize_q5_k, QT.Q6_K: _quantize_q6_k}


def quantize(values, qtype):
    """SHAPE: [rows, columns] f32 -> [rows, row bytes] uint8. REQUIRES: whole blocks per row."""
    values = np.ascontiguousarray(values, dtype=np.float32)
    if qtype not in _OWN:
        return quants.quantize(values, qtype)
    blocks = _OWN[qtype](values.reshape(-1, 256))
    return blocks.reshape(values.shape[0], -1)


def dequantize(data, qtype):
    """The values that the bytes mean, by the independent reader."""
    return quants.dequantize(data, qtype)
