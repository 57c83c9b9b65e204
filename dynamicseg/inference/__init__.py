"""What runs a model file: one module for each kind of file, all with the interface of ``running.RunningModel``.

Nothing here imports more than NumPy and the runtime that the file at hand needs, when it is needed: a device that has
only NumPy, Pillow and ONNX Runtime can predict.
"""
