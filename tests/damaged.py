"""Checkpoints in which one bit has changed."""

import zipfile


def flipped(path, part, at=0.5):
    """Change one bit in a record of a file of torch.save."""
    with zipfile.ZipFile(path) as archive:
        record = archive.getinfo(part)
        with path.open("rb") as file:
            file.seek(record.header_offset)
            header = file.read(30)
    names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    place = record.header_offset + 30 + names + int(at * record.file_size)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def record_of(path, tensor_bytes):
    """The name of the record that holds the given bytes."""
    with zipfile.ZipFile(path) as archive:
        return next(name for name in archive.namelist() if archive.read(name) == tensor_bytes)
