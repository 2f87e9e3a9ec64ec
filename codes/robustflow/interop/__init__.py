"""Published checkpoints: read, checked, converted there and back."""

from pkgutil import extend_path

# ``python -m robustflow.interop...``, as commands were spelt.
__path__ = extend_path(__path__, __name__)
