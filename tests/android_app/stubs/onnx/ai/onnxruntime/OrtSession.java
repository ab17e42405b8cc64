package ai.onnxruntime;

import java.util.Iterator;
import java.util.Map;
import java.util.Set;

public class OrtSession implements AutoCloseable {
    public Set<String> getInputNames() {
        return null;
    }

    public Result run(Map<String, ? extends OnnxTensorLike> inputs) throws OrtException {
        return null;
    }

    @Override
    public void close() throws OrtException {}

    public static class SessionOptions implements AutoCloseable {
        public void setIntraOpNumThreads(int numThreads) throws OrtException {}

        public void setSessionLogLevel(OrtLoggingLevel logLevel) throws OrtException {}

        @Override
        public void close() {}
    }

    public static class Result implements AutoCloseable, Iterable<Map.Entry<String, OnnxValue>> {
        @Override
        public Iterator<Map.Entry<String, OnnxValue>> iterator() {
            return null;
        }

        @Override
        public void close() {}
    }
}
