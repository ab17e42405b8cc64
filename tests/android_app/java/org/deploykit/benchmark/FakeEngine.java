package org.deploykit.benchmark;

import java.io.File;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.List;
import org.deploykit.benchmark.core.Engine;
import org.deploykit.benchmark.core.Input;
import org.deploykit.benchmark.core.Output;

/** An engine that sleeps, doubles its first input, and fails in the way that its kind says. */
final class FakeEngine implements Engine {
    private final String kind = System.getProperty("kind", "good");
    private ByteBuffer input;
    private long[] shape;
    private boolean kept;
    private int runs;

    @Override
    public String name() {
        return System.getProperty("engine", "onnx");
    }

    @Override
    public String runtime() {
        return "fake 1";
    }

    @Override
    public void start(int threads) {
        if (kind.equals("no library")) {
            throw new UnsatisfiedLinkError("no fake in path\nsecond line");
        }
    }

    @Override
    public void load(File model) throws Exception {
        Thread.sleep(20);
        if (kind.equals("no load")) {
            throw new IllegalArgumentException("not a model");
        }
    }

    @Override
    public void prepare(List<Input> inputs) {
        input = inputs.get(0).data();
        shape = inputs.get(0).shape();
    }

    @Override
    public void run() throws Exception {
        if (kept) {
            throw new IllegalStateException("the outputs before were not released");
        }
        runs++;
        kept = true;
        switch (kind) {
            case "no run" -> throw new RuntimeException();
            case "no memory" -> throw new OutOfMemoryError("too large");
            case "crash" -> Runtime.getRuntime().halt(139);
            case "hang" -> Thread.sleep(600_000);
            default -> Thread.sleep(Long.getLong("sleep", 1));
        }
    }

    @Override
    public List<Output> outputs() {
        float[] values = new float[input.capacity() / 4];
        for (int index = 0; index < values.length; index++) {
            values[index] = 2 * input.getFloat(4 * index);
        }
        long count = runs;
        return List.of(
                Output.of("float32", shape, values),
                Output.of("int64", new long[0], new long[] {count}),
                new Output("uint8", new long[] {2}, ByteBuffer.allocateDirect(2).order(ByteOrder.LITTLE_ENDIAN)));
    }

    @Override
    public void release() {
        kept = false;
        try {
            Thread.sleep(Long.getLong("release", 0));
        } catch (InterruptedException error) {
            throw new IllegalStateException(error);
        }
    }

    @Override
    public void close() {
        System.out.println("closed");
    }
}
