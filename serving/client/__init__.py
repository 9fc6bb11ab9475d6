"""A client of a model repository's model `sharpose`, over KServe's v2 protocol: HTTP, or gRPC by the extra."""
