"""Arrays come from a file to the device piece by piece, and no buffer is filled anew before it was copied out of."""

from __future__ import annotations

import os

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from befit.backends.cuda.transfer import Transfer  # noqa: E402
from befit.errors import CorruptFile  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
NUMBERS = np.random.default_rng(0).integers(0, 256, 10_000, dtype=np.uint8)


@pytest.fixture
def file(tmp_path):
    (tmp_path / "w").write_bytes(NUMBERS.tobytes())
    descriptor = os.open(tmp_path / "w", os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


class Log:
    """Events that write down when they are made and waited for."""

    def __init__(self):
        self.entries = []
        self.count = 0

    def __call__(self):
        self.count += 1
        log, number = self, self.count

        class Made:
            def synchronize(self):
                log.entries.append(number)

        return Made()


@pytest.mark.parametrize("record", [None, Log()])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.float16, torch.bfloat16, torch.float32])
def test_an_array_has_the_files_bytes(file, dtype, record):
    if DEVICE.type == "cuda":
        record = None
    transfer = Transfer(DEVICE, piece=1000, record=record)
    size = dtype.itemsize
    first = transfer.read(file, 64, (30, 40), dtype)
    second = transfer.read(file, 4, (7,), dtype)
    transfer.finish()
    for got, offset, shape in ((first, 64, (30, 40)), (second, 4, (7,))):
        assert (got.dtype, tuple(got.shape), got.device.type) == (dtype, shape, DEVICE.type)
        content = got.cpu().reshape(-1).view(torch.uint8).numpy()
        assert np.array_equal(content, NUMBERS[offset : offset + size * int(np.prod(shape))])


def test_a_buffer_waits_for_the_copy_out_of_it():
    log = Log()
    with open("/dev/zero", "rb") as zeros:
        transfer = Transfer(torch.device("cpu"), piece=100, record=log)
        transfer.read(zeros.fileno(), 0, (450,), torch.uint8)
        assert log.count == 5
        assert log.entries == [1, 2, 3]  # before pieces 3, 4 and 5
        transfer.finish()
    assert sorted(log.entries[3:]) == [4, 5]


def test_a_file_that_ends_too_early_or_cannot_be_read(file):
    transfer = Transfer(torch.device("cpu"))
    with pytest.raises(CorruptFile, match="ends inside a matrix"):
        transfer.read(file, 9_990, (20,), torch.uint8)
    folder = os.open("/", os.O_RDONLY)
    with pytest.raises(CorruptFile, match="Is a directory"):
        transfer.read(folder, 0, (20,), torch.uint8)
    os.close(folder)
