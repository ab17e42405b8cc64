package org.deploykit.benchmark.core;

import java.io.File;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.function.BooleanSupplier;

/**
 * A run that is asked for by name and leaves its files in a folder of that name: {@code result.json} and the outputs,
 * or {@code error.txt}, one line of what went wrong. Whichever of the two is there, the run has ended.
 */
public final class Job {
    private static final String NAME = "[A-Za-z0-9_-]{1,64}";

    private Job() {}

    /**
     * Carries a job out.
     *
     * @param extras {@code run}, its name; {@code model}; {@code inputs}, separated by semicolons; {@code threads},
     *     {@code warmup}, {@code iterations}; {@code outputs}, true to keep those of the last inference
     * @param files the folder that names without a slash at the front are in, and the runs' folders below {@code runs}
     * @param disturbed whether something happened that makes the times worthless; asked at the end
     */
    public static Result carryOut(
            Map<String, String> extras,
            File files,
            Engine engine,
            Kernel kernel,
            String runner,
            BooleanSupplier disturbed)
            throws RunnerException {
        String name = extras.getOrDefault("run", "");
        if (!name.matches(NAME)) {
            throw new RunnerException("a run's name is of letters, digits, - and _, not '" + name + "'");
        }
        File folder = new File(files, "runs/" + name);
        if (!folder.mkdirs()) {
            throw new RunnerException("there is a run called '" + name + "', or its folder cannot be made");
        }
        try {
            Options options = Options.parse(words(extras, files, folder));
            Result result = Benchmark.measure(options, engine, kernel, runner);
            if (disturbed.getAsBoolean()) {
                throw new RunnerException("the app left the screen while it measured");
            }
            WholeFile.write(options.result(), result.json());
            return result;
        } catch (RunnerException error) {
            WholeFile.write(new File(folder, "error.txt"), error.getMessage() + "\n");
            throw error;
        }
    }

    private static List<String> words(Map<String, String> extras, File files, File folder) {
        List<String> words = new ArrayList<>();
        for (Map.Entry<String, String> extra : extras.entrySet()) {
            String value = extra.getValue();
            switch (extra.getKey()) {
                case "run" -> {}
                case "model" -> add(words, "--model", value.startsWith("/") ? value : files + "/" + value);
                case "inputs" -> {
                    for (String input : value.split(";")) {
                        boolean named = input.indexOf(':') != input.lastIndexOf(':') && !input.startsWith("/");
                        add(words, "--input", named ? files + "/" + input : input);
                    }
                }
                case "outputs" -> {
                    if (value.equals("true")) {
                        add(words, "--outputs", folder.getPath());
                    }
                }
                default -> add(words, "--" + extra.getKey(), value);
            }
        }
        add(words, "--result", folder + "/result.json");
        return words;
    }

    private static void add(List<String> words, String name, String value) {
        words.add(name);
        words.add(value);
    }
}
