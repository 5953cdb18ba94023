"""Small sets of pictures as users bring them: zips, tars, parquet."""

import io
import json
import tarfile
import zipfile
from hashlib import sha256

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from models.core.run import Run
from models.core.spec import DatasetRef
from models.data import synthetic

CLASSES = ["ant", "bee", "cat"]
KINDS = ("stored", "deflated", "tar", "parquet")


def encoded(pixels, kind="PNG", **options):
    """The bytes of a picture file."""
    stream = io.BytesIO()
    Image.fromarray(np.asarray(pixels).squeeze()).save(stream, kind, **options)
    return stream.getvalue()


def learnable(count, size=16, seed=1):
    """Names and PNG bytes of squares of three classes that a net can tell apart, with labels."""
    pixels, labels = synthetic.blobs(count, 3, size, 3, seed)
    return [
        (f"{CLASSES[y]}/{k:04d}.png", encoded(x))
        for k, (x, y) in enumerate(zip(pixels, labels, strict=True))
    ]


def packed(kind, files):
    """Files as one file of a kind."""
    stream = io.BytesIO()
    if kind == "parquet":
        rows = [{"bytes": content, "path": name} for name, content in files]
        labels = [CLASSES.index(name.split("/")[0]) for name, _ in files]
        image = pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
        features = {"label": {"names": CLASSES, "_type": "ClassLabel"}}
        note = {"huggingface": json.dumps({"info": {"features": features}})}
        table = pa.table({"image": image, "label": labels}).replace_schema_metadata(note)
        pq.write_table(table, stream)
    elif kind == "tar":
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for name, content in files:
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    else:
        method = zipfile.ZIP_STORED if kind == "stored" else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(stream, "w", method) as archive:
            for name, content in files:
                archive.writestr(name, content)
    return stream.getvalue()


def placed(run: Run, content: bytes) -> DatasetRef:
    """A reference to a file that lies among the inputs of a run."""
    digest = sha256(content).hexdigest()
    (run.dir / "inputs").mkdir(exist_ok=True)
    (run.dir / "inputs" / digest).write_bytes(content)
    return DatasetRef(dataset="mine", sha256=digest)
