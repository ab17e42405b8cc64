"""A reference interpreter for MIL, the language inside an ``.mlpackage``: CoreML itself runs on Apple's systems only.

One file a family of operators, each after its definition in coremltools; see `interpreter.execute`.
"""
