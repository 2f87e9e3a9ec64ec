"""Options: YAML in, typed frozen values out. Builders read them; a module's forward never does."""

from pkgutil import extend_path

# ``python -m robustflow.options...``, as commands were spelt.
__path__ = extend_path(__path__, __name__)
