from evaluation_fixtures import make_model, make_options

__all__ = ["make_model", "make_options"]
