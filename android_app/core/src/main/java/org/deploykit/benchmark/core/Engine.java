package org.deploykit.benchmark.core;

import java.io.File;
import java.util.List;

/**
 * A runtime that loads a file and runs it.
 *
 * <p>The calls come in this order: {@code start}, {@code load}, {@code prepare}, then {@code release} and {@code run} in
 * turn, {@code outputs}, {@code close}. Only {@code run} is timed.
 */
public interface Engine extends AutoCloseable {
    /** The target whose artifacts it runs, such as {@code onnx}. */
    String name();

    /** The runtime and its version. */
    String runtime();

    /** Loads the runtime's own libraries and sets its number of threads. */
    void start(int threads) throws Exception;

    /** Loads an artifact. */
    void load(File model) throws Exception;

    /** Makes the inputs of every inference. */
    void prepare(List<Input> inputs) throws Exception;

    /** One inference; its outputs are kept until {@code release}. */
    void run() throws Exception;

    /** The outputs of the inference before. */
    List<Output> outputs() throws Exception;

    /** Frees the outputs of the inference before. */
    void release();

    @Override
    void close();
}
