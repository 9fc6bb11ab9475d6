"""Where results go: one module per family of formats, and `outputs`, from the user's options to their sinks."""
