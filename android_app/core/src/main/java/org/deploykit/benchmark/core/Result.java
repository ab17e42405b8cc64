package org.deploykit.benchmark.core;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * What a run measured; {@link #json} is the document that every runner writes. Times are in nanoseconds.
 *
 * @param window when the timed inferences began and ended, since the machine was started; null where that is not told
 */
public record Result(
        String runner,
        String engine,
        String runtime,
        int threads,
        List<Integer> affinity,
        long load,
        List<Long> warmup,
        List<Long> samples,
        List<Long> window,
        Long baselineKb,
        Long loadedKb,
        Long peakKb,
        List<Clocks> clocks,
        List<Kept> outputs) {

    /** The clocks of the cores in MHz at a moment of {@code System.nanoTime}. */
    public record Clocks(long at, Map<Integer, Long> mhz) {}

    /** An output, and the name of the file that it was written to, or null. */
    public record Kept(String file, String type, long[] shape) {}

    /** The first inference after loading. */
    public long first() {
        return (warmup.isEmpty() ? samples : warmup).get(0);
    }

    /** The document, schema 1. */
    public String json() {
        Map<String, Object> memory = new LinkedHashMap<>();
        memory.put("baseline_kb", baselineKb);
        memory.put("loaded_kb", loadedKb);
        memory.put("peak_kb", peakKb);
        Map<String, Object> document = new LinkedHashMap<>();
        document.put("schema", 1);
        document.put("runner", runner);
        document.put("engine", engine);
        document.put("runtime", runtime);
        document.put("abi", Kernel.machine());
        document.put("threads", threads);
        document.put("affinity", affinity);
        document.put("load_ns", load);
        document.put("first_ns", first());
        document.put("warmup_ns", warmup);
        document.put("samples_ns", samples);
        document.put("window_ns", window);
        document.put("memory", memory);
        document.put("clocks_mhz", clockRecords());
        document.put("outputs", outputRecords());
        return Json.write(document);
    }

    private List<Object> clockRecords() {
        List<Object> records = new ArrayList<>();
        for (Clocks each : clocks) {
            if (!each.mhz().isEmpty()) {
                Map<String, Object> record = new LinkedHashMap<>();
                record.put("at_ns", each.at());
                record.put("mhz", each.mhz());
                records.add(record);
            }
        }
        return records;
    }

    private List<Object> outputRecords() {
        List<Object> records = new ArrayList<>();
        for (Kept output : outputs) {
            List<Long> shape = new ArrayList<>();
            for (long size : output.shape()) {
                shape.add(size);
            }
            Map<String, Object> record = new LinkedHashMap<>();
            record.put("file", output.file());
            record.put("dtype", output.type());
            record.put("shape", shape);
            records.add(record);
        }
        return records;
    }
}
