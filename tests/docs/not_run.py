"""The commands of the pages that no test runs as they stand, and why; all others are run (`test_commands`)."""

from __future__ import annotations

PHONE = "needs a phone; tests/devices and tests/android_app have a fake one"
IPHONE = "needs an iPhone; tests/devices has a fake one"
BOARD = "needs a host to log in to; tests/devices/test_ssh.py"
INDEX = "installs from a package index"
HOURS = "takes hours; `make compatibility` checks a part of it"
IMAGES = "needs photographs of the reader's; tests/precision/test_int8.py has its own"
LAB = "needs a lab; tests/sweep/test_device_lab.py runs it with this machine's addresses and names"
SECRET = "is for the home folder and the shell of the reader; tests/sweep/test_device_lab.py runs it in others"

NOT_RUN: dict[str, dict[str, str]] = {
    "compatibility.md": {"python -m deploy_kit.benchmarks.suites.compatibility": HOURS},
    "models.md": {"python -m deploy_kit.benchmarks.suites.model_table": "counts every model, for many minutes"},
    "device-lab.md": {
        "pip install 'deploy-kit[postgres]'": INDEX,
        "createdb results": LAB,
        "deploykit sweep --store postgresql://lab:PASSWORD@db.example/results": LAB,
        "pip install 'deploy-kit[ray]'": INDEX,
        "GRPC_ENABLE_FORK_SUPPORT=false ray start --head --port 6379 --ray-client-server-port 10001": LAB,
        'ray start --address 192.0.2.1:6379 --resources \'{"adb:R5CR10XXXXX": 1, "ssh:pi@board": 1}\'': LAB,
        "deploykit sweep --on ray://192.0.2.1:10001": LAB,
        "deploykit sweep --on auto": LAB,
        "ray get-auth-token --generate": SECRET,
        "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=~/.ray/auth_token": SECRET,
    },
    "measuring.md": {
        (
            "deploykit bench artifacts/edgevit_digits/torchscript-lite --device adb:SERIAL --cores prime --cool-to 40"
        ): PHONE,
        "deploykit bench artifacts/edgevit_digits/torchscript-lite --device ssh:USER@HOST": BOARD,
        "deploykit bench artifacts/edgevit_digits/coreml --device ios:UDID --runner app:cpuOnly": IPHONE,
        "deploykit bench artifacts/edgevit_digits/torchscript-lite --device qemu:aarch64 --metric instructions": (
            "needs a cross compiler and builds a runner for minutes; tests/benchmarks/test_native.py"
        ),
    },
    "own-models.md": {
        "deploykit export timm/mobilenetv3_small_050 --weights timm --target onnx": "fetches weights from the network",
    },
    "proof.md": {
        "deploykit export MODEL --target onnx --precision int8 --calibration images --auto-mixed": IMAGES,
        "deploykit export MODEL --target onnx --precision int8 --calibration images --keep-fp32 head": IMAGES,
    },
    "tutorial.md": {
        "deploykit bench artifacts/edgevit_digits/onnx --device adb --runner app --cool-to 40 --out phone.json": PHONE,
    },
    "targets/coreml.md": {
        "deploykit export edgevit_digits --target coreml --precision int8 --calibration images --out int8": IMAGES,
        "deploykit bench artifacts/edgevit_digits/coreml --device ios": IPHONE,
        "deploykit bench artifacts/edgevit_digits/coreml --device ios --runner app:cpuAndNeuralEngine": IPHONE,
    },
    "targets/executorch.md": {
        "deploykit bench artifacts/edgevit_digits/executorch --device adb --cores big": PHONE,
        "deploykit bench artifacts/edgevit_digits/executorch --device ios": IPHONE,
    },
    "targets/onnx.md": {"deploykit bench artifacts/edgevit_digits/onnx --device adb --runner app": PHONE},
    "targets/tensorrt.md": {"deploykit bench artifacts/edgevit_digits/tensorrt --device ssh:USER@HOST": BOARD},
    "targets/torchscript-lite.md": {
        "/usr/bin/python3 lite.py artifacts/edgevit_digits/torchscript-lite/model.ptl 1,3,64,64": (
            "needs the interpreter of the phones' generation, which test_commands looks for"
        ),
        "deploykit bench artifacts/edgevit_digits/torchscript-lite --device adb --cores big": PHONE,
    },
}
"""Of each page, its ``console`` lines."""
