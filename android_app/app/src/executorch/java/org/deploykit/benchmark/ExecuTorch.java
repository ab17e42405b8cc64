package org.deploykit.benchmark;

import java.io.File;
import java.util.ArrayList;
import java.util.List;
import org.deploykit.benchmark.core.Engine;
import org.deploykit.benchmark.core.Input;
import org.deploykit.benchmark.core.Output;
import org.deploykit.benchmark.core.RunnerException;
import org.pytorch.executorch.EValue;
import org.pytorch.executorch.Module;
import org.pytorch.executorch.Tensor;

/** ExecuTorch, with the backends that its published library has. */
final class ExecuTorch implements Engine {
    private int threads;
    private Module module;
    private EValue[] inputs;
    private EValue[] results;

    @Override
    public String name() {
        return "executorch";
    }

    @Override
    public String runtime() {
        return BuildConfig.RUNTIME;
    }

    @Override
    public void start(int wanted) throws ClassNotFoundException {
        Class.forName("org.pytorch.executorch.Module"); // its initialiser loads the native library
        threads = wanted;
    }

    @Override
    public void load(File model) {
        module = Module.load(model.getPath(), Module.LOAD_MODE_MMAP, threads);
        module.loadMethod("forward");
    }

    @Override
    public void prepare(List<Input> given) throws RunnerException {
        inputs = new EValue[given.size()];
        for (int index = 0; index < inputs.length; index++) {
            inputs[index] = EValue.from(tensor(given.get(index)));
        }
    }

    @Override
    public void run() {
        results = module.forward(inputs);
    }

    @Override
    public List<Output> outputs() throws RunnerException {
        List<Output> outputs = new ArrayList<>();
        for (EValue value : results) {
            if (!value.isTensor()) {
                throw new RunnerException("an output is no tensor");
            }
            outputs.add(output(value.toTensor()));
        }
        return outputs;
    }

    @Override
    public void release() {
        results = null;
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
            case FLOAT16 -> Tensor.fromBlob(input.data().asShortBuffer(), input.shape());
            case FLOAT64 -> Tensor.fromBlob(input.data().asDoubleBuffer(), input.shape());
            case INT32 -> Tensor.fromBlob(input.data().asIntBuffer(), input.shape());
            case INT64 -> Tensor.fromBlob(input.data().asLongBuffer(), input.shape());
            case INT8 -> Tensor.fromBlob(input.data(), input.shape());
            case UINT8 -> Tensor.fromBlobUnsigned(input.data(), input.shape());
            default -> throw new RunnerException("ExecuTorch's Java interface takes no " + input.type());
        };
    }

    private static Output output(Tensor tensor) throws RunnerException {
        long[] shape = tensor.shape();
        return switch (tensor.dtype()) {
            case FLOAT -> Output.of("float32", shape, tensor.getDataAsFloatArray());
            case HALF -> Output.of("float16", shape, tensor.getDataAsShortArray());
            case DOUBLE -> Output.of("float64", shape, tensor.getDataAsDoubleArray());
            case INT32 -> Output.of("int32", shape, tensor.getDataAsIntArray());
            case INT64 -> Output.of("int64", shape, tensor.getDataAsLongArray());
            case INT8 -> Output.of("int8", shape, tensor.getDataAsByteArray());
            case UINT8 -> Output.of("uint8", shape, tensor.getDataAsUnsignedByteArray());
            default -> throw new RunnerException("ExecuTorch's Java interface gives no " + tensor.dtype());
        };
    }
}
