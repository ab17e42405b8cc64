package org.deploykit.benchmark.core;

import java.util.Arrays;
import java.util.List;

/**
 * The statistics of a run that a person reads on the screen, in milliseconds; those of a report are made from the raw
 * samples elsewhere, in the same way.
 *
 * @param std with n - 1 in the divisor; null of a single sample
 */
public record Summary(int samples, double mean, Double std, double min, double p50, double p90, double max) {
    /** The statistics of samples in nanoseconds, of which there is at least one. */
    public static Summary of(List<Long> nanoseconds) {
        double[] ordered = new double[nanoseconds.size()];
        for (int index = 0; index < ordered.length; index++) {
            ordered[index] = nanoseconds.get(index) / 1e6;
        }
        Arrays.sort(ordered);
        double mean = Arrays.stream(ordered).sum() / ordered.length;
        double squares = Arrays.stream(ordered).map(value -> (value - mean) * (value - mean)).sum();
        Double std = ordered.length > 1 ? Math.sqrt(squares / (ordered.length - 1)) : null;
        return new Summary(
                ordered.length,
                mean,
                std,
                ordered[0],
                percentile(ordered, 50),
                percentile(ordered, 90),
                ordered[ordered.length - 1]);
    }

    /** Linear between neighbours: Hyndman and Fan's type 7, as numpy's. */
    private static double percentile(double[] ordered, double percent) {
        double position = (ordered.length - 1) * percent / 100;
        int below = (int) Math.floor(position);
        int above = Math.min(below + 1, ordered.length - 1);
        return ordered[below] + (ordered[above] - ordered[below]) * (position - below);
    }
}
