"""Makes src/tensor/testdata/: what the bytes of quantised blocks mean, by an independent reader.

For every block type, `<type>.decode` holds 4 blocks of random bytes (with sane scales) and the
floats that PyPI `gguf` decodes them to; for the types that `gguf` can also write, `<type>.encode`
holds floats and the blocks it makes of them. Run once; the files are committed.

    pip install gguf numpy
    python tools/golden/make_quant_goldens.py
"""

import pathlib

import numpy as np
from gguf import GGMLQuantizationType, quants

BLOCKS = 4
FOLDER = pathlib.Path(__file__).resolve().parents[2] / "src" / "tensor" / "testdata"

# type: bytes of a block, elements, byte offsets of its half-precision scales
LAYOUTS = {
    "Q8_0": (34, 32, [0]),
    "Q4_0": (18, 32, [0]),
    "Q4_1": (20, 32, [0, 2]),
    "Q5_0": (22, 32, [0]),
    "Q5_1": (24, 32, [0, 2]),
    "Q4_K": (144, 256, [0, 2]),
    "Q5_K": (176, 256, [0, 2]),
    "Q6_K": (210, 256, [208]),
}
ENCODABLE = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]


def random_blocks(generator, name):
    size, _, scales = LAYOUTS[name]
    blocks = generator.integers(0, 256, size=(BLOCKS, size), dtype=np.uint8)
    for offset in scales:
        values = generator.uniform(-0.1, 0.1, size=(BLOCKS, 1)).astype(np.float16)
        blocks[:, offset : offset + 2] = values.view(np.uint8)
    return blocks


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(20260821)
    for name, (_, elements, _) in LAYOUTS.items():
        kind = GGMLQuantizationType[name]
        blocks = random_blocks(generator, name)
        values = quants.dequantize(blocks.reshape(1, -1), kind).astype("<f4")
        (FOLDER / f"{name.lower()}.decode").write_bytes(blocks.tobytes() + values.tobytes())
        if name in ENCODABLE:
            floats = generator.normal(0, 0.05, size=(1, BLOCKS * elements)).astype("<f4")
            encoded = quants.quantize(floats, kind)
            (FOLDER / f"{name.lower()}.encode").write_bytes(floats.tobytes() + encoded.tobytes())


if __name__ == "__main__":
    main()
