"""Convert a pickle of NVlabs/edm or NVlabs/edm2 to safetensors, once, in a checkout of the repository that it belongs to.

Such a pickle runs the code that it carries: convert only files that you trust. freeflow_lightning never opens one.

    cd edm2 && python .../notebooks/tools/convert_edm.py edm2-img512-s-2147483-0.025.pkl edm2-s.safetensors

The weights of the inner network (`unet` or `model`) are written in float32, with what it was built with; the teacher's
section of a config is printed. Needs torch, safetensors, and the checkout's folder as the current one.
"""

import json
import os
import pickle
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

INNER = {
    "Precond": ("unet", "training.networks_edm2"),
    "EDMPrecond": ("model", "training.networks"),
}
"""Outer class: the attribute that holds F, and the module that defines its class."""


def convert(source: str, target: str) -> str:
    """Write F's weights to `target`; returns the section of a config that builds the teacher."""
    with Path(source).open("rb") as file:
        net = pickle.load(file)["ema"]
    outer = type(net).__name__
    if outer not in INNER:
        raise SystemExit(
            f"{source} holds a {outer}, which is not EDM's preconditioning: expected one of {sorted(INNER)}"
        )
    attribute, module = INNER[outer]
    inner = getattr(net, attribute)
    facts = {
        "network": f"{module}.{type(inner).__name__}",
        "arguments": dict(inner.init_kwargs),
        "sample_shape": [net.img_channels, net.img_resolution, net.img_resolution],
        "num_classes": net.label_dim,
        "sigma_data": float(net.sigma_data),
    }
    weights = {
        name: value.detach().to(torch.float32).contiguous().cpu()
        for name, value in inner.state_dict().items()
    }
    save_file(weights, target, {"edm": json.dumps(facts)})
    return "\n".join(
        [
            "teacher:",
            "  class_path: EDMTeacher",
            "  init_args:",
            "    network:",
            f"      class_path: {facts['network']}",
            f"      init_args: {json.dumps(facts['arguments'])}",
            f"    sample_shape: {facts['sample_shape']}",
            f"    num_classes: {facts['num_classes']}",
            f"    sigma_data: {facts['sigma_data']}",
            f"    checkpoint: {target}",
        ]
    )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(f"usage: python {sys.argv[0]} SOURCE.pkl TARGET.safetensors")
    sys.path.insert(0, os.getcwd())
    print(convert(*sys.argv[1:]))
