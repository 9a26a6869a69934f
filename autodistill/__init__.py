"""From which teacher, at which temperatures and loss weights, should this small student learn?

import autodistill as ad

study = ad.search("mobilenetv2:0.5", teachers=["file:r56.pth?norm=imagenet"], data="folder:photos", budget=20)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autodistill.api import Study, compare, load_study, search

__all__ = ["Study", "__version__", "compare", "load_study", "search"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the API, and torch with it, when it is used first, so that `autodistill --help` stays fast."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from autodistill import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
