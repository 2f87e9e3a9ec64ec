"""Options: YAML in, typed frozen values out. Builders read them; a module's forward never does."""
