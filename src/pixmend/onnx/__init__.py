"""Models as ONNX files: `onnx_file` writes one (extra export), `runtime` completes with it (extra onnx, without torch)."""
