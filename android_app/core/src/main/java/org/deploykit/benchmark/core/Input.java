package org.deploykit.benchmark.core;

import java.io.File;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.util.Random;

/** One input: its element type, its shape, and its bytes in C order, in a direct buffer as the engines want them. */
public record Input(DType type, long[] shape, ByteBuffer data) {
    private static final long LARGEST = 1 << 30;

    /**
     * Reads an input.
     *
     * @param text {@code FILE:DTYPE:SIZES}, such as {@code x.bin:float32:1,3,224,224}; or {@code DTYPE:SIZES} without a
     *     file, which makes numbers: normal ones, bytes, or zeros for other types, the same in every run
     */
    public static Input read(String text) throws RunnerException {
        int second = text.lastIndexOf(':');
        if (second < 0) {
            throw new RunnerException("an input is FILE:DTYPE:SIZES, not '" + text + "'");
        }
        int first = text.lastIndexOf(':', second - 1);
        DType type = DType.of(text.substring(first + 1, second));
        long[] shape = shape(text.substring(second + 1));
        long bytes = type.size;
        for (long size : shape) {
            bytes *= size;
            if (bytes > LARGEST) {
                throw new RunnerException("the input '" + text + "' is larger than " + LARGEST + " bytes");
            }
        }
        ByteBuffer data = ByteBuffer.allocateDirect((int) bytes).order(ByteOrder.LITTLE_ENDIAN);
        if (first < 0) {
            fill(type, data);
        } else {
            load(new File(text.substring(0, first)), data, type + " of " + text.substring(second + 1));
        }
        data.rewind();
        return new Input(type, shape, data);
    }

    private static long[] shape(String text) throws RunnerException {
        if (text.isEmpty()) {
            return new long[0];
        }
        String[] sizes = text.split(",", -1);
        long[] shape = new long[sizes.length];
        for (int axis = 0; axis < sizes.length; axis++) {
            if (!sizes[axis].matches("[0-9]{1,9}")) {
                throw new RunnerException("'" + text + "' is no shape, such as 1,3,224,224");
            }
            shape[axis] = Long.parseLong(sizes[axis]);
        }
        return shape;
    }

    private static void load(File file, ByteBuffer data, String what) throws RunnerException {
        long length = file.length();
        if (!file.canRead()) {
            throw new RunnerException("there is no file '" + file + "' that can be read");
        }
        if (length != data.capacity()) {
            throw new RunnerException("'" + file + "' has " + length + " bytes; " + what + " has " + data.capacity());
        }
        try {
            data.put(Files.readAllBytes(file.toPath()));
        } catch (IOException | RuntimeException error) {
            throw RunnerException.from("'" + file + "' cannot be read", error);
        }
    }

    private static void fill(DType type, ByteBuffer data) {
        Random random = new Random(0);
        while (data.hasRemaining()) {
            switch (type) {
                case FLOAT32 -> data.putFloat((float) random.nextGaussian());
                case FLOAT64 -> data.putDouble(random.nextGaussian());
                case UINT8 -> data.put((byte) random.nextInt(256));
                default -> data.put((byte) 0);
            }
        }
    }
}
