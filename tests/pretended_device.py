"""A pretended GPU: tensors that say "cuda:1" while a CPU computes their values.

It finds what a CPU cannot show: operations with tensors of two devices, operations that need the values on the host
(each makes the host wait for the device), and the number of kernels that an image starts. It says nothing about speed,
and its values are those of the CPU.
"""

from __future__ import annotations

import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import flop_registry

from ovbench.evaluation.cost import attention_in_own_precision

DEVICE = torch.device("cuda:1")
PACKAGE = Path(__file__).parents[1] / "ovbench"
COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
aten = torch.ops.aten
# the size of the result depends on the values
WAITS = {
    aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten._unique2, aten.unique_dim, aten.unique_consecutive,
    aten.is_nonzero, aten.equal, aten.bincount,
}  # fmt: skip
INDEXES = {aten.index, aten.index_put_, aten.index_put, aten._index_put_impl_}
SOLVERS = {aten._linalg_eigh, aten._linalg_svd, aten.linalg_qr, aten.linalg_cholesky_ex, aten.linalg_inv_ex}
VIEWS = {"view", "_unsafe_view", "expand", "permute", "transpose", "slice", "select", "unsqueeze", "squeeze", "alias",
         "split", "split_with_sizes", "detach", "as_strided", "t", "unbind", "diagonal", "unfold", "lift_fresh",
         "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "_reshape_alias",
         "is_same_size"}  # fmt: skip


class OnDevice(torch.Tensor):
    """A tensor on the pretended device."""

    host: torch.Tensor

    @staticmethod
    def __new__(cls, host: torch.Tensor):
        found = torch.Tensor._make_wrapper_subclass(
            cls, host.shape, strides=host.stride(), storage_offset=host.storage_offset(), dtype=host.dtype,
            device=DEVICE, requires_grad=False,
        )  # fmt: skip
        found.host = host
        return found

    def __repr__(self, **_):
        return f"OnDevice({tuple(self.shape)}, {self.dtype})"

    __torch_function__ = torch._C._disabled_torch_function_impl

    # PyTorch's own methods ask the driver of a GPU

    def contiguous(self, memory_format=torch.contiguous_format):
        """As of a tensor."""
        same = self.is_contiguous(memory_format=memory_format)
        return self if same else aten.clone.default(self, memory_format=memory_format)

    def __invert__(self):
        return aten.bitwise_not.default(self)

    def __int__(self):
        return int(self.item())

    __index__ = __int__

    def __float__(self):
        return float(self.item())

    def __bool__(self):
        return bool(self.item())

    def nonzero(self):
        """As of a tensor."""
        return aten.nonzero.default(self)

    def tolist(self):
        """As of a tensor."""
        return self.to("cpu").tolist()

    def copy_(self, source, non_blocking=False):
        """As of a tensor."""
        return aten.copy_.default(self, source, non_blocking)

    def __getitem__(self, index):
        view, rest = _place(self, index)
        return view if rest is None else aten.index.Tensor(view, rest)

    def __setitem__(self, index, value):
        view, rest = _place(self, index)
        if not isinstance(value, torch.Tensor):
            value = torch.full((), value, dtype=self.dtype, device=DEVICE)
        if rest is None:
            aten.copy_.default(view, value)
        else:
            aten.index_put_.default(view, rest, value.to(self.dtype))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} outside `pretended`")


def _place(tensor: torch.Tensor, index) -> tuple[torch.Tensor, list | None]:
    """Take integers, slices and new axes of an index; return the view, and the rest as for ``aten.index``."""
    index = list(index) if isinstance(index, tuple) else [index]
    used = sum(1 if not isinstance(i, torch.Tensor) or i.dtype != torch.bool else i.dim()
               for i in index if i is not None and i is not Ellipsis)  # fmt: skip
    if not any(i is Ellipsis for i in index):
        index.append(Ellipsis)
    at = next(n for n, i in enumerate(index) if i is Ellipsis)
    index[at : at + 1] = [slice(None)] * (tensor.dim() - used)
    axis, rest, view = 0, [], tensor
    for i in index:
        if i is None:
            view = view.unsqueeze(axis)
        elif isinstance(i, slice):
            if i != slice(None):
                start, stop, step = i.indices(view.shape[axis])
                view = aten.slice.Tensor(view, axis, start, max(stop, start), step)
        elif isinstance(i, int) and not isinstance(i, bool):
            view = view.select(axis, i)
            continue
        else:
            i = i if isinstance(i, torch.Tensor) else torch.as_tensor(i)
            rest += [None] * (axis - len(rest)) + [i]
            axis += i.dim() if i.dtype == torch.bool else 1
            continue
        axis += 1
    return view, rest or None


def _on_host(leaf):
    if isinstance(leaf, torch.device):
        return torch.device("cpu")
    return leaf.host if isinstance(leaf, OnDevice) else leaf


class Pretended(TorchDispatchMode):
    """Compute operations of `OnDevice` tensors on their host values, and count.

    Attributes:
        launches: Number of kernels.
        waits: Number of waits of the host by "file:line operation".
        doubles: Number of kernels with a result in float64.
        flops: Floating-point operations of matrix products and convolutions by dtype.
    """

    def __init__(self):
        super().__init__()
        self.launches = self.doubles = 0
        self.waits: Counter[str] = Counter()
        self.flops: Counter[torch.dtype] = Counter()

    def wait(self, name: str) -> None:
        """Note that the host waits for the device."""
        frames = [f for f in traceback.extract_stack(sys._getframe(1)) if f.filename.startswith(str(PACKAGE))]
        where = f"{Path(frames[-1].filename).relative_to(PACKAGE)}:{frames[-1].lineno}" if frames else "?"
        self.waits[f"{where} {name}"] += 1

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), COMPOSITE):  # inference mode leaves these whole
            before = self.launches
            with self:
                found = func._op_dk(COMPOSITE, *args, **kwargs)
            if func.overloadpacket is aten.scaled_dot_product_attention and self.launches > before:
                self.launches = before + 1  # one fused kernel on a GPU
            return found
        packet, name = func.overloadpacket, func.overloadpacket.__name__
        leaves = torch.utils._pytree.tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        here = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
        if kwargs.pop("pin_memory", False):
            return func(*args, **kwargs).pin_memory()
        to = kwargs.get("device")
        onto = to is not None and torch.device(to).type == "cuda"
        if to is not None:
            kwargs["device"] = torch.device("cpu")
        if not here and not onto:
            return func(*args, **kwargs)
        if packet is aten._fused_sdp_choice:
            return 0  # the plain form; the others have no kernel on a CPU
        if packet is aten._has_compatible_shallow_copy_type:
            return False
        if packet is aten._softmax and args[2]:  # half to float, which a CPU has not
            args = (OnDevice(args[0].host.float()), args[1], False)
        copies = packet in (aten._to_copy, aten.copy_)
        if not copies:
            self._refuse_mixed(packet, name, args, tensors, len(here))
        result = func(*tree_map(_on_host, args), **tree_map(_on_host, kwargs))
        self._count(packet, name, args, to, onto, copies)
        self.doubles += getattr(result, "dtype", None) == torch.float64
        if packet in flop_registry:
            self.flops[result.dtype] += flop_registry[packet](*args, **kwargs, out_val=result)
        if packet is aten._local_scalar_dense or (packet is aten._to_copy and to is not None and not onto):
            return result
        if name.endswith("_") and here and args and isinstance(args[0], torch.Tensor):
            return args[0]
        if packet is aten.copy_:
            return args[0]
        return tree_map(lambda leaf: OnDevice(leaf) if isinstance(leaf, torch.Tensor) else leaf, result)

    def _refuse_mixed(self, packet, name: str, args, tensors: list[torch.Tensor], here: int) -> None:
        alien = [tensor for tensor in tensors if not isinstance(tensor, OnDevice)]
        if packet in INDEXES and alien and isinstance(args[0], OnDevice):
            self.wait(f"{name} with an index on the host")  # CUDA copies it, and waits
        elif any(tensor.dim() for tensor in alien) and here:
            raise RuntimeError(f"Expected all tensors to be on the same device, {name} got cpu and {DEVICE}")

    def _count(self, packet, name: str, args, to, onto: bool, copies: bool) -> None:
        if name not in VIEWS:
            self.launches += 1
        if copies:
            if packet is aten._to_copy:
                down, up = to is not None and not onto, onto and not isinstance(args[0], OnDevice)
            else:
                down = isinstance(args[1], OnDevice) and not getattr(args[0], "_pinned", isinstance(args[0], OnDevice))
                up = isinstance(args[0], OnDevice) and not isinstance(args[1], OnDevice)
            if down or (up and not getattr(args[0 if packet is aten._to_copy else 1], "_pinned", False)):
                self.wait("copy to the host" if down else "copy from pageable memory")
        elif packet in WAITS or packet in SOLVERS or name == "nms":  # torchvision loads its operations when imported
            self.wait(name)
        elif packet in INDEXES:
            if any(isinstance(i, torch.Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1]):
                self.wait(f"{name} with a mask")
        elif packet is aten.repeat_interleave and len(args) == 1:
            self.wait(name)


@contextmanager
def pretended() -> Iterator[Pretended]:
    """Pretend that this machine has two GPUs; "cuda:1" computes on the CPU."""
    fakes = {
        "_lazy_init": lambda: None, "is_available": lambda: True, "device_count": lambda: 2,
        "is_initialized": lambda: True, "current_device": lambda: 1, "set_device": lambda device: None,
        "synchronize": lambda device=None: None, "empty_cache": lambda: None,
        "max_memory_allocated": lambda device=None: 0, "get_device_name": lambda device=None: "pretended",
    }  # fmt: skip
    mode = Pretended()
    fakes["current_stream"] = lambda device=None: device

    def record(stream=None):
        if stream != DEVICE:
            raise RuntimeError("the event is recorded on another GPU, so nobody waits for this one")

    fakes["Event"] = lambda: SimpleNamespace(record=record, synchronize=lambda: mode.wait("event"))

    def pinned(tensor, *_):
        found = tensor.clone()
        found._pinned = True
        return found

    def made(make):
        def on_host(data, dtype=None, device=None, **other):
            if isinstance(data, OnDevice):
                return data.to(device=device or DEVICE, dtype=dtype or data.dtype)
            found = make(data, dtype=dtype, **other)
            return found if device is None else found.to(device)

        return on_host

    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with ExitStack() as stack:
            for name, fake in fakes.items():
                stack.enter_context(mock.patch.object(torch.cuda, name, fake))
            stack.enter_context(mock.patch.object(torch.Tensor, "pin_memory", pinned))
            stack.enter_context(mock.patch("torch.amp.autocast_mode._cuda_amp_unavailable", lambda: False, create=True))
            for name in ("tensor", "as_tensor"):  # ask the driver
                stack.enter_context(mock.patch.object(torch, name, made(getattr(torch, name))))
            stack.enter_context(attention_in_own_precision())
            stack.enter_context(mode)
            yield mode
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
