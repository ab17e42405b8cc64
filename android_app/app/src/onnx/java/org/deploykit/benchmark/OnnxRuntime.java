package org.deploykit.benchmark;

import ai.onnxruntime.OnnxJavaType;
import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OnnxValue;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtLoggingLevel;
import ai.onnxruntime.OrtSession;
import ai.onnxruntime.TensorInfo;
import java.io.File;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.deploykit.benchmark.core.DType;
import org.deploykit.benchmark.core.Engine;
import org.deploykit.benchmark.core.Input;
import org.deploykit.benchmark.core.Output;
import org.deploykit.benchmark.core.RunnerException;

/** ONNX Runtime on the CPU, without other execution providers. */
final class OnnxRuntime implements Engine {
    private OrtEnvironment environment;
    private int threads;
    private OrtSession session;
    private Map<String, OnnxTensor> inputs = new LinkedHashMap<>();
    private OrtSession.Result result;

    @Override
    public String name() {
        return "onnx";
    }

    @Override
    public String runtime() {
        return BuildConfig.RUNTIME;
    }

    @Override
    public void start(int wanted) {
        environment = OrtEnvironment.getEnvironment();
        threads = wanted;
    }

    @Override
    public void load(File model) throws OrtException {
        try (OrtSession.SessionOptions options = new OrtSession.SessionOptions()) {
            options.setIntraOpNumThreads(threads);
            options.setSessionLogLevel(OrtLoggingLevel.ORT_LOGGING_LEVEL_ERROR);
            session = environment.createSession(model.getPath(), options);
        }
    }

    @Override
    public void prepare(List<Input> given) throws OrtException, RunnerException {
        List<String> names = new ArrayList<>(session.getInputNames());
        if (names.size() != given.size()) {
            throw new RunnerException("the model has " + names.size() + " inputs, not " + given.size());
        }
        for (int index = 0; index < names.size(); index++) {
            Input input = given.get(index);
            OnnxJavaType type = type(input.type());
            inputs.put(names.get(index), OnnxTensor.createTensor(environment, input.data(), input.shape(), type));
        }
    }

    @Override
    public void run() throws OrtException {
        result = session.run(inputs);
    }

    @Override
    public List<Output> outputs() throws RunnerException {
        List<Output> outputs = new ArrayList<>();
        for (Map.Entry<String, OnnxValue> entry : result) {
            if (!(entry.getValue() instanceof OnnxTensor tensor)) {
                throw new RunnerException("the output '" + entry.getKey() + "' is no tensor");
            }
            TensorInfo info = tensor.getInfo();
            outputs.add(new Output(name(info.type), info.getShape(), tensor.getByteBuffer()));
        }
        return outputs;
    }

    @Override
    public void release() {
        if (result != null) {
            result.close();
            result = null;
        }
    }

    @Override
    public void close() {
        release();
        inputs.values().forEach(OnnxTensor::close);
        try {
            if (session != null) {
                session.close();
            }
        } catch (OrtException error) {
            throw new IllegalStateException(error);
        }
    }

    private static OnnxJavaType type(DType type) {
        return switch (type) {
            case FLOAT32 -> OnnxJavaType.FLOAT;
            case FLOAT16 -> OnnxJavaType.FLOAT16;
            case FLOAT64 -> OnnxJavaType.DOUBLE;
            case UINT8 -> OnnxJavaType.UINT8;
            case INT8 -> OnnxJavaType.INT8;
            case INT32 -> OnnxJavaType.INT32;
            case INT64 -> OnnxJavaType.INT64;
            case BOOL -> OnnxJavaType.BOOL;
        };
    }

    private static String name(OnnxJavaType type) throws RunnerException {
        for (DType each : DType.values()) {
            if (type(each) == type) {
                return each.toString();
            }
        }
        throw new RunnerException("an output is of " + type);
    }
}
