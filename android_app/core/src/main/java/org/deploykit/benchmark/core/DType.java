package org.deploykit.benchmark.core;

import java.util.Locale;

/** The element types that an input may have; their names in lower case are those of numpy. */
public enum DType {
    FLOAT32(4),
    FLOAT16(2),
    FLOAT64(8),
    UINT8(1),
    INT8(1),
    INT32(4),
    INT64(8),
    BOOL(1);

    /** Bytes of an element. */
    public final int size;

    DType(int size) {
        this.size = size;
    }

    /** The type of that name. */
    public static DType of(String name) throws RunnerException {
        for (DType type : values()) {
            if (type.toString().equals(name)) {
                return type;
            }
        }
        throw new RunnerException("there is no element type called '" + name + "'");
    }

    @Override
    public String toString() {
        return name().toLowerCase(Locale.ROOT);
    }
}
