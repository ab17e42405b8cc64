package org.deploykit.benchmark;

import org.deploykit.benchmark.core.Engine;

final class Engines {
    static final String SUFFIX = ".fake";

    private Engines() {}

    static Engine create() {
        return new FakeEngine();
    }
}
