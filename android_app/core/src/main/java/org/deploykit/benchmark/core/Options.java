package org.deploykit.benchmark.core;

import java.io.File;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/**
 * What a run is asked for; the words are those of every runner.
 *
 * @param model the artifact's file
 * @param inputs one text for each input, see {@link Input#read}
 * @param outputs the folder that the outputs of the last inference are written to, or null
 * @param result the file that the result is written to
 */
public record Options(
        File model, List<String> inputs, int threads, int warmup, int iterations, File outputs, File result) {
    private static final int MOST_THREADS = 1024;
    private static final int MOST_INFERENCES = 1_000_000;

    /** Reads {@code --model FILE --input FILE:DTYPE:SIZES ... --threads N --warmup N --iterations N --result FILE}. */
    public static Options parse(List<String> words) throws RunnerException {
        File model = null;
        File outputs = null;
        File result = null;
        List<String> inputs = new ArrayList<>();
        int threads = 1;
        int warmup = 10;
        int iterations = 50;
        for (int index = 0; index < words.size(); index += 2) {
            String name = words.get(index);
            if (name.equals("--mark")) {
                throw new RunnerException("this runner cannot mark its inferences");
            }
            if (index + 1 == words.size()) {
                throw new RunnerException(name + " has no value");
            }
            String value = words.get(index + 1);
            switch (name) {
                case "--model" -> model = new File(value);
                case "--input" -> inputs.add(value);
                case "--threads" -> threads = number(name, value, 1, MOST_THREADS);
                case "--warmup" -> warmup = number(name, value, 0, MOST_INFERENCES);
                case "--iterations" -> iterations = number(name, value, 1, MOST_INFERENCES);
                case "--outputs" -> outputs = new File(value);
                case "--result" -> result = new File(value);
                case "--cores" -> throw new RunnerException("an app cannot keep itself on chosen cores");
                default -> throw new RunnerException("there is no option " + name);
            }
        }
        if (model == null || result == null) {
            throw new RunnerException((model == null ? "--model" : "--result") + " is missing");
        }
        return new Options(model, Collections.unmodifiableList(inputs), threads, warmup, iterations, outputs, result);
    }

    private static int number(String name, String text, int least, int most) throws RunnerException {
        if (text.matches("[0-9]{1,9}")) {
            int value = Integer.parseInt(text);
            if (value >= least && value <= most) {
                return value;
            }
        }
        throw new RunnerException(name + " is a number from " + least + " to " + most + ", not '" + text + "'");
    }
}
