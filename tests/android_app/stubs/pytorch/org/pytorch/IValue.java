package org.pytorch;

import java.util.Map;

public class IValue {
    public static IValue from(Tensor tensor) {
        return null;
    }

    public boolean isTensor() {
        return false;
    }

    public boolean isTensorList() {
        return false;
    }

    public boolean isTuple() {
        return false;
    }

    public boolean isList() {
        return false;
    }

    public boolean isDictStringKey() {
        return false;
    }

    public Tensor toTensor() {
        return null;
    }

    public Tensor[] toTensorList() {
        return null;
    }

    public IValue[] toTuple() {
        return null;
    }

    public IValue[] toList() {
        return null;
    }

    public Map<String, IValue> toDictStringKey() {
        return null;
    }
}
