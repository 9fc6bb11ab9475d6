"""Find people in a picture: by ONNX detectors of several families, by file or name, or by motion."""
