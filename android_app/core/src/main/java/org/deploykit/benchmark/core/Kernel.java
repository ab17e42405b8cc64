package org.deploykit.benchmark.core;

import java.io.File;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** What Linux tells about this process and the cores; what it does not tell is null or left out. */
public final class Kernel {
    private static final Pattern CORE = Pattern.compile("cpu([0-9]{1,4})");

    private static final Pattern UPTIME = Pattern.compile("^([0-9]{1,9})\\.([0-9]{2}) ");

    private final File root;

    public Kernel() {
        this(new File("/"));
    }

    /** As {@code /proc} and {@code /sys} below another folder tell it. */
    public Kernel(File root) {
        this.root = root;
    }

    /** A field of {@code /proc/self/status} in kB, such as {@code VmRSS}; null where there is none. */
    public Long memoryKb(String field) {
        String found = field(new File(root, "proc/self/status"), field, "([0-9]{1,15}) kB");
        return found == null ? null : Long.valueOf(found);
    }

    /** The cores that the thread which asks may run on; null where the kernel does not tell them. */
    public List<Integer> affinity() {
        File status = new File(root, "proc/thread-self/status");
        String found = field(status, "Cpus_allowed_list", "([0-9]{1,4}(?:[,-][0-9]{1,4})*)");
        if (found == null) {
            return null;
        }
        List<Integer> cores = new ArrayList<>();
        for (String part : found.split(",")) {
            String[] ends = part.split("-");
            for (int core = Integer.parseInt(ends[0]); core <= Integer.parseInt(ends[ends.length - 1]); core++) {
                cores.add(core);
            }
        }
        return cores;
    }

    /** The clock of each core in MHz, of those that tell it. */
    public Map<Integer, Long> clocksMhz() {
        Map<Integer, Long> clocks = new TreeMap<>();
        File folder = new File(root, "sys/devices/system/cpu");
        String[] names = folder.list();
        for (String name : names == null ? new String[0] : names) {
            Matcher core = CORE.matcher(name);
            String text = core.matches() ? read(new File(folder, name + "/cpufreq/scaling_cur_freq")) : null;
            if (text != null && text.trim().matches("[0-9]{1,12}")) {
                clocks.put(Integer.valueOf(core.group(1)), Long.parseLong(text.trim()) / 1000);
            }
        }
        return Collections.unmodifiableMap(clocks);
    }

    /** Nanoseconds since the machine was started, to a hundredth of a second; null where the kernel does not tell. */
    public Long uptime() {
        String text = read(new File(root, "proc/uptime"));
        Matcher found = text == null ? null : UPTIME.matcher(text);
        return found == null || !found.find() ? null : Long.parseLong(found.group(1) + found.group(2)) * 10_000_000;
    }

    /** The machine as Linux calls it: {@code aarch64}, {@code x86_64}. */
    public static String machine() {
        String name = System.getProperty("os.arch", "");
        return name.equals("amd64") ? "x86_64" : name;
    }

    private static String field(File file, String name, String value) {
        String text = read(file);
        if (text == null) {
            return null;
        }
        Matcher found = Pattern.compile("^" + name + ":\\s+" + value + "$", Pattern.MULTILINE).matcher(text);
        return found.find() ? found.group(1) : null;
    }

    private static String read(File file) {
        try {
            return new String(Files.readAllBytes(file.toPath()), StandardCharsets.UTF_8);
        } catch (IOException | SecurityException error) {
            return null;
        }
    }
}
