package org.pytorch.executorch;

public class EValue {
    public static EValue from(Tensor tensor) {
        return null;
    }

    public boolean isTensor() {
        return false;
    }

    public Tensor toTensor() {
        return null;
    }
}
