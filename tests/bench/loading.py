"""Images a second of one core from encoded photographs: at full size, and as cheap steps read them.

    python -m tests.bench.loading --out FILE.json [--images 240] [--rounds 9]

JPEGs of 500 x 375 pixels and 60 kB or more on average: parts of the six colour photographs of
scikit-image, scikit-learn and matplotlib, enlarged. They lie in an uncompressed tar and are read
by their place, verified, decoded, and brought to 224, 112 or 56 pixels. Seconds are those of the
CPU (``time.process_time``), one thread; the ways take turns, round by round. ``differences`` are
those of the small images to means of areas of the full ones, which cheap steps take in memory: root
mean squares over the deviation of the full images.
"""

import argparse
import io
import json
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image, features

from models.core.run import Run
from models.data import loading, samples
from models.data.decode import decode
from models.data.decoder import _central, reduced
from models.data.loader import PictureRequest
from models.data.spec import ImageOptions
from tests.models.data.pictures import packed, placed

COLOUR = (0, 1, 2, 4, 5, 6)
SIDES = {"full": None, "half": (112, 112), "quarter": (56, 56)}
WAYS = ("read", "decode", *SIDES)  # decode: at full size, without resizing


def photographs(count):
    """Names and bytes of JPEGs, two classes."""
    numbers = np.random.default_rng(0)
    whole = [Image.fromarray(samples.photo(k)) for k in COLOUR]
    for k in range(count):
        picture = whole[k % len(whole)]
        high = min(picture.height, picture.width * 3 / 4) * numbers.uniform(0.6, 1)
        left, top = numbers.uniform(0, 1, 2) * (picture.width - high * 4 / 3, picture.height - high)
        part = picture.crop((int(left), int(top), int(left + high * 4 / 3), int(top + high)))
        stream = io.BytesIO()
        part.resize((500, 375), Image.Resampling.LANCZOS).save(stream, "JPEG", quality=96)
        yield f"{k % 2}/{k}.jpg", stream.getvalue()


def seconds(data, way):
    """CPU seconds an image."""
    requests = data.train.requests(torch.arange(len(data.train)), SIDES.get(way))
    loader = data.train._loader
    started = time.process_time()
    for request in requests:
        if way in ("read", "decode"):
            content = loader.decoders[request.part].reader.read(request.position)
            if way == "decode":
                decode(content, "")
        else:
            loader.image(PictureRequest(*request))
    return (time.process_time() - started) / len(requests)


def differences(data):
    """By size: of images decoded small, and of the same areas of images decoded whole."""
    loader, requests = data.train._loader, data.train.requests(torch.arange(len(data.train)))
    squares = {size: [0.0, 0.0] for size in SIDES.values() if size}
    deviations = []
    for request in requests:
        full = loader.image(request)
        deviations.append(full.astype(float).var())
        whole = decode(loader.decoders[request.part].reader.read(request.position), "")
        for size, sums in squares.items():
            n = full.shape[0] // size[0]
            means = full.reshape(size[0], n, size[1], n, 3).mean((1, 3))
            small = loader.image(request._replace(size=size))
            same = reduced(whole, size, *_central(whole, size, "crop"))
            for k, image in enumerate((small, same)):
                sums[k] += ((image - means) ** 2).mean() / len(requests)
    scale = statistics.mean(deviations) ** 0.5
    return {
        f"{size[0]} pixels": {
            "decoded_small": sums[0] ** 0.5 / scale,
            "decoded_whole": sums[1] ** 0.5 / scale,
        }
        for size, sums in squares.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=240)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    files = list(photographs(options.images))
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder))
        ref = placed(run, packed("tar", files))
        data = loading.load(
            ref, ImageOptions(image_size=224), run, 0, lambda _: 0, "stream", processes=0
        )
        for way in WAYS:
            seconds(data, way)  # the first time is not counted
        times = {way: [] for way in WAYS}
        for _ in range(options.rounds):
            for way in WAYS:
                times[way].append(seconds(data, way))
        apart = differences(data)
    lengths = [len(content) for _, content in files]
    result = {
        "mean_bytes": statistics.mean(lengths),
        "images": len(data.train),
        "rounds": options.rounds,
        "ways": {
            way: {
                "us_an_image_min": min(taken) * 1e6,
                "us_an_image_median": statistics.median(taken) * 1e6,
                "images_per_s_of_a_core": 1 / statistics.median(taken),
            }
            for way, taken in times.items()
        },
        "differences": apart,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "pillow": version("pillow"),
        "libjpeg_turbo": features.version("libjpeg_turbo"),
        "torch": torch.__version__,
    }
    options.out.write_text(json.dumps(result, indent=1))
    print(json.dumps(result["ways"], indent=1))


if __name__ == "__main__":
    main()
