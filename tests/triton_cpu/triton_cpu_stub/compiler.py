"""The compiler: the half of a backend that would make code."""

from typing import Any, NoReturn

from triton.backends.compiler import BaseBackend


class CpuBackend(BaseBackend):
    """Compiles for nothing. The interpreter never makes one."""

    @staticmethod
    def supports_target(target: object) -> bool:
        return False

    def hash(self) -> NoReturn:
        raise NotImplementedError

    def parse_options(self, options: dict[str, Any]) -> NoReturn:
        raise NotImplementedError

    def add_stages(self, stages: dict[str, Any], options: object, language: object) -> NoReturn:
        raise NotImplementedError

    def load_dialects(self, context: object) -> NoReturn:
        raise NotImplementedError

    def get_module_map(self) -> NoReturn:
        raise NotImplementedError
