package org.deploykit.benchmark.core;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;

/** One output of the last inference: its element type as numpy calls it, its shape, and its bytes in C order. */
public record Output(String type, long[] shape, ByteBuffer data) {
    public static Output of(String type, long[] shape, byte[] values) {
        return new Output(type, shape, ByteBuffer.wrap(values));
    }

    public static Output of(String type, long[] shape, short[] values) {
        ByteBuffer data = bytes(values.length, Short.BYTES);
        data.asShortBuffer().put(values);
        return new Output(type, shape, data);
    }

    public static Output of(String type, long[] shape, int[] values) {
        ByteBuffer data = bytes(values.length, Integer.BYTES);
        data.asIntBuffer().put(values);
        return new Output(type, shape, data);
    }

    public static Output of(String type, long[] shape, long[] values) {
        ByteBuffer data = bytes(values.length, Long.BYTES);
        data.asLongBuffer().put(values);
        return new Output(type, shape, data);
    }

    public static Output of(String type, long[] shape, float[] values) {
        ByteBuffer data = bytes(values.length, Float.BYTES);
        data.asFloatBuffer().put(values);
        return new Output(type, shape, data);
    }

    public static Output of(String type, long[] shape, double[] values) {
        ByteBuffer data = bytes(values.length, Double.BYTES);
        data.asDoubleBuffer().put(values);
        return new Output(type, shape, data);
    }

    private static ByteBuffer bytes(int count, int size) {
        return ByteBuffer.allocate(Math.multiplyExact(count, size)).order(ByteOrder.LITTLE_ENDIAN);
    }
}
