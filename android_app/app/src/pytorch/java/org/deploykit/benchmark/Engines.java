package org.deploykit.benchmark;

import org.deploykit.benchmark.core.Engine;

/** The engine of this build of the app. */
final class Engines {
    static final String SUFFIX = ".ptl";

    private Engines() {}

    static Engine create() {
        return new PyTorchLite();
    }
}
