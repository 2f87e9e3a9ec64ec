from evaluation_fixtures import make_model, make_options, run

__all__ = ["make_model", "make_options", "run"]
