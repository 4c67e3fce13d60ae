"""__version__: of the installed package."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("unveil")
except PackageNotFoundError:
    __version__ = "0+unknown"  # run from its sources, without having been installed
