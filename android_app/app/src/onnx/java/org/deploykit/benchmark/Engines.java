package org.deploykit.benchmark;

import org.deploykit.benchmark.core.Engine;

/** The engine of this build of the app. */
final class Engines {
    static final String SUFFIX = ".onnx";

    private Engines() {}

    static Engine create() {
        return new OnnxRuntime();
    }
}
