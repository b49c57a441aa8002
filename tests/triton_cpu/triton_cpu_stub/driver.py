"""The driver: the half of a backend that knows the device."""

from typing import NoReturn

from triton.backends.driver import DriverBase


class CpuDriver(DriverBase):
    """A device that is always there. The interpreter never asks it for more."""

    @classmethod
    def is_active(cls) -> bool:
        return True

    def map_python_to_cpp_type(self, ty: str) -> NoReturn:
        raise NotImplementedError

    def get_current_target(self) -> NoReturn:
        raise NotImplementedError

    def get_active_torch_device(self) -> NoReturn:
        raise NotImplementedError

    def get_benchmarker(self) -> NoReturn:
        raise NotImplementedError
