"""The benchmark app as far as the harness sees it: run by `fake_xcrun` as a program, with the app's arguments.

``KIND`` is what goes wrong: crash, hang, error, half, rubbish, silent, low, or nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from itertools import pairwise

DOCUMENTS, KIND = os.environ["DOCUMENTS"], os.environ["KIND"]


def main(verb: str, *words: str) -> None:
    if KIND == "silent":
        time.sleep(60)
    if verb == "remove":
        for name in words:
            shutil.rmtree(f"{DOCUMENTS}/runs/{name}", ignore_errors=True)
            shutil.rmtree(f"{DOCUMENTS}/{name}", ignore_errors=True)
        return
    folder = f"{DOCUMENTS}/runs/{words[0]}"
    os.makedirs(folder)
    if verb == "state":
        state = {"battery_percent": 87.0, "charging": False, "thermal": "fair" if KIND == "warm" else "nominal"}
        write(f"{folder}/state.json", {"schema": 1, **state, "low_power_mode": KIND == "low", "screen_on": None})
        return
    run(folder, list(words[1:]))
    time.sleep(60)


def run(folder: str, words: list[str]) -> None:
    if KIND == "crash":
        os.abort()
    if KIND == "hang":
        time.sleep(60)
    if KIND == "error":
        with open(f"{folder}/error.txt", "w") as file:
            file.write("the file cannot be loaded: not a model\n")
        return
    given = dict(pairwise(words))
    assert os.path.exists(f"{DOCUMENTS}/{given['--model']}"), given
    name, dtype, sizes = given["--input"].rsplit(":", 2)
    shutil.copy(f"{DOCUMENTS}/{name}", f"{folder}/0.bin")
    document = {
        "schema": 1,
        "runner": "deploykit-ios 1",
        "engine": given["--engine"],
        "runtime": f"fake {given.get('--units', '')}",
        "abi": "aarch64",
        "threads": int(given["--threads"]),
        "affinity": None,
        "load_ns": 5_000_000,
        "first_ns": 2_000_000,
        "warmup_ns": [2_000_000] * int(given["--warmup"]),
        "samples_ns": [1_000_000 + 1000 * (index % 7) for index in range(int(given["--iterations"]))],
        "memory": {"baseline_kb": 10, "loaded_kb": 20, "peak_kb": 30},
        "clocks_mhz": [],
        "outputs": [{"file": "0.bin", "dtype": dtype, "shape": [int(size) for size in sizes.split(",")]}],
    }
    text = json.dumps(document)
    if KIND in ("half", "rubbish"):
        text = text[: len(text) // 2] if KIND == "half" else "rubbish"
    write(f"{folder}/result.json", text)


def write(path: str, content: object) -> None:
    with open(f"{path}.part", "w") as file:
        file.write(content if isinstance(content, str) else json.dumps(content))
    os.rename(f"{path}.part", path)


if __name__ == "__main__":
    main(*sys.argv[1:])
