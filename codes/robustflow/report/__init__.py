"""Tables, plots, pages, comparisons and studies of results."""
