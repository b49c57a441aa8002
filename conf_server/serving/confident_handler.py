"""What our subclasses of vLLM's handlers have in common."""

from __future__ import annotations

from typing import Any, Self

from conf_server.engine.adoption import adopt_copy
from conf_server.serving.default_estimates import DefaultEstimates
from conf_server.settings import ConfidenceSettings


class ConfidentHandler:
    """A mixin for a handler whose answers say how sure the model was.

    Attributes:
        confidence_settings: what holds where a request says nothing.
        default_estimates: what answers carry beside; None where they carry nothing.
    """

    confidence_settings: ConfidenceSettings
    default_estimates: DefaultEstimates | None = None

    @classmethod
    def adopt(cls, stock: Any, settings: ConfidenceSettings) -> Self:
        """Take over a handler that vLLM has built.

        Its attributes are taken as they are: the constructor's arguments grow with every
        vLLM release, and vLLM's own init code already knows them.

        Args:
            stock: of the class of vLLM's that this is mixed in before.
        """
        handler = adopt_copy(cls, stock)
        handler.confidence_settings = settings
        return handler
