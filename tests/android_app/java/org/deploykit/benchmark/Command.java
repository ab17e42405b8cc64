package org.deploykit.benchmark;

import java.io.File;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Map;
import org.deploykit.benchmark.core.Benchmark;
import org.deploykit.benchmark.core.Job;
import org.deploykit.benchmark.core.Kernel;
import org.deploykit.benchmark.core.Options;
import org.deploykit.benchmark.core.Result;
import org.deploykit.benchmark.core.RunnerException;
import org.deploykit.benchmark.core.Summary;
import org.deploykit.benchmark.core.WholeFile;

/** The core as a program: {@code runner OPTIONS}, {@code job FILES NAME=VALUE ...}, {@code summary NANOSECONDS ...}. */
public final class Command {
    public static void main(String[] words) {
        try {
            run(words[0], Arrays.copyOfRange(words, 1, words.length));
        } catch (RunnerException error) {
            System.err.println("error: " + error.getMessage());
            System.exit(1);
        }
    }

    private static void run(String what, String[] words) throws RunnerException {
        Kernel kernel = new Kernel(new File(System.getProperty("root", "/")));
        String runner = System.getProperty("runner", "test 1");
        switch (what) {
            case "runner" -> {
                Options options = Options.parse(Arrays.asList(words));
                Result result = Benchmark.measure(options, new FakeEngine(), kernel, runner);
                WholeFile.write(options.result(), result.json());
            }
            case "job" -> {
                Map<String, String> extras = new LinkedHashMap<>();
                for (String word : Arrays.asList(words).subList(1, words.length)) {
                    extras.put(word.split("=", 2)[0], word.split("=", 2)[1]);
                }
                boolean disturbed = Boolean.getBoolean("disturbed");
                Job.carryOut(extras, new File(words[0]), new FakeEngine(), kernel, runner, () -> disturbed);
            }
            default -> System.out.println(Summary.of(Arrays.stream(words).map(Long::valueOf).toList()));
        }
    }
}
