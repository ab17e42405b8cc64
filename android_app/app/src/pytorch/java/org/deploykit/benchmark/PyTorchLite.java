package org.deploykit.benchmark;

import java.io.File;
import java.util.ArrayList;
import java.util.List;
import org.deploykit.benchmark.core.Engine;
import org.deploykit.benchmark.core.Input;
import org.deploykit.benchmark.core.Output;
import org.deploykit.benchmark.core.RunnerException;
import org.pytorch.IValue;
import org.pytorch.LiteModuleLoader;
import org.pytorch.Module;
import org.pytorch.PyTorchAndroid;
import org.pytorch.Tensor;

/** PyTorch's mobile interpreter. */
final class PyTorchLite implements Engine {
    private Module module;
    private IValue[] inputs;
    private IValue result;

    @Override
    public String name() {
        return "torchscript-lite";
    }

    @Override
    public String runtime() {
        return BuildConfig.RUNTIME;
    }

    @Override
    public void start(int threads) {
        PyTorchAndroid.setNumThreads(threads);
    }

    @Override
    public void load(File model) {
        module = LiteModuleLoader.load(model.getPath());
    }

    @Override
    public void prepare(List<Input> given) throws RunnerException {
        inputs = new IValue[given.size()];
        for (int index = 0; index < inputs.length; index++) {
            inputs[index] = IValue.from(tensor(given.get(index)));
        }
    }

    @Override
    public void run() {
        result = module.forward(inputs);
    }

    @Override
    public List<Output> outputs() throws RunnerException {
        List<Output> outputs = new ArrayList<>();
        collect(result, outputs);
        return outputs;
    }

    @Override
    public void release() {
        result = null;
    }

    @Override
    public void close() {
        if (module != null) {
            module.destroy();
        }
    }

    private static Tensor tensor(Input input) throws RunnerException {
        return switch (input.type()) {
            case FLOAT32 -> Tensor.fromBlob(input.data().asFloatBuffer(), input.shape());
            case FLOAT64 -> Tensor.fromBlob(input.data().asDoubleBuffer(), input.shape());
            case INT32 -> Tensor.fromBlob(input.data().asIntBuffer(), input.shape());
            case INT64 -> Tensor.fromBlob(input.data().asLongBuffer(), input.shape());
            case INT8 -> Tensor.fromBlob(input.data(), input.shape());
            case UINT8 -> Tensor.fromBlobUnsigned(input.data(), input.shape());
            default -> throw new RunnerException("PyTorch's Java interface takes no " + input.type());
        };
    }

    private static void collect(IValue value, List<Output> outputs) throws RunnerException {
        if (value.isTensor()) {
            outputs.add(output(value.toTensor()));
        } else if (value.isTensorList()) {
            for (Tensor tensor : value.toTensorList()) {
                outputs.add(output(tensor));
            }
        } else if (value.isTuple() || value.isList()) {
            for (IValue part : value.isTuple() ? value.toTuple() : value.toList()) {
                collect(part, outputs);
            }
        } else if (value.isDictStringKey()) {
            for (IValue part : value.toDictStringKey().values()) {
                collect(part, outputs);
            }
        } else {
            throw new RunnerException("an output is no tensor");
        }
    }

    private static Output output(Tensor tensor) throws RunnerException {
        long[] shape = tensor.shape();
        return switch (tensor.dtype()) {
            case FLOAT32 -> Output.of("float32", shape, tensor.getDataAsFloatArray());
            case FLOAT64 -> Output.of("float64", shape, tensor.getDataAsDoubleArray());
            case INT32 -> Output.of("int32", shape, tensor.getDataAsIntArray());
            case INT64 -> Output.of("int64", shape, tensor.getDataAsLongArray());
            case INT8 -> Output.of("int8", shape, tensor.getDataAsByteArray());
            case UINT8 -> Output.of("uint8", shape, tensor.getDataAsUnsignedByteArray());
            default -> throw new RunnerException("PyTorch's Java interface gives no " + tensor.dtype());
        };
    }
}
