package org.deploykit.benchmark.core;

import java.io.File;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/** The protocol: load, warm-up, timed inferences, and what the kernel tells around them. */
public final class Benchmark {
    /** Nanoseconds between two looks at the clocks while inferences are timed, at least. */
    private static final long LOOK_EVERY = 100_000_000;

    private Benchmark() {}

    /**
     * Runs an artifact and measures what that takes; the engine is closed, however it ends.
     *
     * @param runner the name of the program that measures, and its version
     * @throws RunnerException an input is damaged, or the engine cannot load or run the file
     */
    public static Result measure(Options options, Engine engine, Kernel kernel, String runner) throws RunnerException {
        try (engine) {
            List<Input> inputs = new ArrayList<>();
            for (String text : options.inputs()) {
                inputs.add(Input.read(text));
            }
            attempt("the runtime cannot be started", () -> engine.start(options.threads()));
            if (!options.model().isFile() || !options.model().canRead()) {
                throw new RunnerException("there is no file '" + options.model() + "' that can be read");
            }
            Long baseline = kernel.memoryKb("VmRSS");
            long start = System.nanoTime();
            attempt("the file cannot be loaded", () -> engine.load(options.model()));
            long load = System.nanoTime() - start;
            Long loaded = kernel.memoryKb("VmRSS");
            List<Long> warmup = new ArrayList<>();
            List<Long> samples = new ArrayList<>();
            List<Long> window = new ArrayList<>();
            List<Result.Clocks> clocks = new ArrayList<>();
            List<Result.Kept> kept = new ArrayList<>();
            attempt("the model cannot be run", () -> {
                engine.prepare(inputs);
                warmup.addAll(time(engine, options.warmup(), () -> {}));
                clocks.add(look(kernel));
                window.add(kernel.uptime());
                samples.addAll(time(engine, options.iterations(), () -> {
                    if (System.nanoTime() - clocks.get(clocks.size() - 1).at() >= LOOK_EVERY) {
                        clocks.add(look(kernel));
                    }
                }));
                window.add(kernel.uptime());
                clocks.add(look(kernel));
                kept.addAll(keep(engine.outputs(), options.outputs()));
            });
            return new Result(
                    runner,
                    engine.name(),
                    engine.runtime(),
                    options.threads(),
                    kernel.affinity(),
                    load,
                    warmup,
                    samples,
                    window.contains(null) ? null : window,
                    baseline,
                    loaded,
                    kernel.memoryKb("VmHWM"),
                    clocks,
                    kept);
        }
    }

    private static Result.Clocks look(Kernel kernel) {
        return new Result.Clocks(System.nanoTime(), kernel.clocksMhz());
    }

    /** Nanoseconds of each of a number of inferences, and what follows each; the outputs of the last one are kept. */
    private static List<Long> time(Engine engine, int count, Runnable between) throws Exception {
        Long[] times = new Long[count];
        for (int index = 0; index < count; index++) {
            engine.release();
            long start = System.nanoTime();
            engine.run();
            times[index] = System.nanoTime() - start;
            between.run();
        }
        return Arrays.asList(times);
    }

    private static List<Result.Kept> keep(List<Output> outputs, File folder) throws RunnerException {
        List<Result.Kept> kept = new ArrayList<>();
        for (Output output : outputs) {
            String name = folder == null ? null : kept.size() + ".bin";
            if (name != null) {
                WholeFile.write(new File(folder, name), output.data());
            }
            kept.add(new Result.Kept(name, output.type(), output.shape()));
        }
        return kept;
    }

    private interface Step {
        void take() throws Exception;
    }

    private static void attempt(String failure, Step step) throws RunnerException {
        try {
            step.take();
        } catch (RunnerException error) {
            throw error;
        } catch (Exception | LinkageError | OutOfMemoryError error) {
            throw RunnerException.from(failure, error);
        }
    }
}
