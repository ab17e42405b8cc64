package org.deploykit.benchmark;

final class BuildConfig {
    static final String RUNTIME = "fake 1";
}
