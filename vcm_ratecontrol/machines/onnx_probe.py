"""Run by itself (python -m): does ONNX Runtime survive one run of the model given on stdin?

A network that is given another input size than it was built for may not only fail but crash ONNX Runtime
(a pooling over nothing divides by zero), which no exception handler would catch. So it is tried in a process
of its own first.
"""

import sys


def main() -> None:
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(sys.stdin.buffer.read(), options, providers=["CPUExecutionProvider"])
    first = session.get_inputs()[0]
    dtype = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int8)": np.int8}
    shape = [d if isinstance(d, int) else 1 for d in first.shape]
    session.run(None, {first.name: np.zeros(shape, dtype.get(first.type, np.uint8))})


if __name__ == "__main__":
    main()
