package org.deploykit.benchmark.core;

/** What the user must know, in one line. */
public final class RunnerException extends Exception {
    private static final long serialVersionUID = 1;

    public RunnerException(String message) {
        super(message);
    }

    /** The first line of what an engine said, or the kind of its error where it said nothing. */
    static RunnerException from(String what, Throwable error) {
        String text = error.getMessage() == null ? "" : error.getMessage().trim();
        String first = text.isEmpty() ? error.getClass().getSimpleName() : text.split("\\R", 2)[0];
        return new RunnerException(what + ": " + first);
    }
}
