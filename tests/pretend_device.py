"""A pretend accelerator: the device "pretend", whose tensors lie in the CPU's memory.

As on a real one, operators refuse tensors of several devices (those without dimensions aside), so
a tensor that was left behind on the wrong device is found without a GPU. As a plugin of pytest
(`-p pretend_device`) it is in force for a whole process, which `test_pretend_device.py` starts. The
interface of PyTorch behind it is private.
"""

from __future__ import annotations

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "pretend"
COPIES = ("_to_copy", "copy_", "_copy_from", "_copy_from_and_resize")
"""Operators that may take tensors of several devices."""
IS_AVAILABLE = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")


class PretendTensor(torch.Tensor):
    """A tensor on the device; `held` is the same one on the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held):
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=f"{NAME}:0",
        )
        tensor.held = held
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
        return run(operator, args, kwargs or {})


def run(operator, args, kwargs):
    """Runs an operator on the CPU; what it returns is on the device of its arguments, or on the one
    that it is asked for."""
    tensors = []

    def on_cpu(value):
        if isinstance(value, torch.Tensor):
            tensors.append(value)
            return value.held if isinstance(value, PretendTensor) else value
        return type(value)(map(on_cpu, value)) if isinstance(value, list | tuple) else value

    asked = kwargs.get("device")
    args, kwargs = on_cpu(args), {name: on_cpu(value) for name, value in kwargs.items()}
    found = {one.device.type for one in tensors if one.dim()}
    if len(found) > 1 and operator.overloadpacket.__name__ not in COPIES:
        raise RuntimeError(f"{operator} expects tensors on one device, found {sorted(found)}")
    is_pretend = any(isinstance(one, PretendTensor) for one in tensors)
    if asked is not None and (is_pretend := torch.device(asked).type == NAME):
        kwargs["device"] = torch.device("cpu")
    # An operator in place returns its argument.
    own = {id(one.held if isinstance(one, PretendTensor) else one): one for one in tensors}

    def back(result):
        if isinstance(result, list | tuple):
            return type(result)(map(back, result))
        if not isinstance(result, torch.Tensor) or id(result) in own:
            return own.get(id(result), result)
        return PretendTensor(result) if is_pretend else result

    return back(operator(*args, **kwargs))


class Factories(TorchDispatchMode):
    """Operators without tensors on the device that are asked for it, such as `torch.zeros`."""

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        return run(operator, args, kwargs or {})


class NewTensors(TorchFunctionMode):
    """What calls no operator: `torch.tensor(..., device=)`, lists as indices, and `tolist`."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function in (torch.tensor, torch.as_tensor) and "device" in kwargs:
            return function(*args, **kwargs | {"device": "cpu"}).to(kwargs["device"])
        if function in (torch.Tensor.tolist, torch.Tensor.__repr__, torch.Tensor.__format__):
            return function(args[0].cpu(), *args[1:])
        if function in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            tensor, index, *value = args
            several = index if isinstance(index, tuple) else (index,)
            index = tuple(
                torch.tensor(one, dtype=torch.long).to(tensor.device)
                if isinstance(one, list)
                else one
                for one in several
            )
            args = (tensor, index, *value)
        return function(*args, **kwargs)


class Generator(torch.Generator):
    """Random numbers for the device come from the CPU."""

    def __new__(cls, device="cpu"):
        return super().__new__(cls, "cpu" if NAME in str(device) else device)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests():
    """Sets the device up and lets `torch_device` know it."""
    module = backend_registration._DummyBackendModule()
    module.get_amp_supported_dtype = lambda: [torch.bfloat16]
    backend_registration._setup_privateuseone_for_python_backend(NAME, module)
    torch.Generator = Generator
    for mode in (NewTensors(), Factories()):
        mode.__enter__()
    from codellama.training import trainer
    from codellama.weights import loading

    trainer.GROUP_TOKENS[NAME] = trainer.GROUP_TOKENS["cuda"]
    known = loading.torch_device
    loading.torch_device = lambda name: torch.device(NAME) if NAME in str(name) else known(name)
