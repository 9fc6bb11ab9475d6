"""One YAML file a model; read by `sharpose.config.load_config`."""
