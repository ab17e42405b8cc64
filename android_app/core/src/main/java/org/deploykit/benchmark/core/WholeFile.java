package org.deploykit.benchmark.core;

import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.StandardCopyOption;

/** Writes files that are whole or absent: under a temporary name beside them, then renamed. */
public final class WholeFile {
    private WholeFile() {}

    /** Writes a text as UTF-8. */
    public static void write(File target, String text) throws RunnerException {
        write(target, ByteBuffer.wrap(text.getBytes(StandardCharsets.UTF_8)));
    }

    /** Writes the bytes between a buffer's position and limit. */
    public static void write(File target, ByteBuffer data) throws RunnerException {
        File temporary = new File(target.getPath() + ".part");
        try {
            try (FileOutputStream file = new FileOutputStream(temporary)) {
                ByteBuffer rest = data.duplicate();
                while (rest.hasRemaining()) {
                    file.getChannel().write(rest);
                }
                file.getFD().sync();
            }
            Files.move(temporary.toPath(), target.toPath(), StandardCopyOption.ATOMIC_MOVE);
        } catch (IOException | SecurityException error) {
            temporary.delete();
            throw RunnerException.from("'" + target + "' cannot be written", error);
        }
    }
}
