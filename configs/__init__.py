"""Model configurations, one YAML file per model (`sharpose.config.load_config`); recipes and detectors."""
