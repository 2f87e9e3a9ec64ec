from evaluation_fixtures import make_model, make_options, no_page, run

__all__ = ["make_model", "make_options", "no_page", "run"]
