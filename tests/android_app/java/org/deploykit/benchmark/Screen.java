package org.deploykit.benchmark;

import android.os.Bundle;
import android.widget.Button;
import android.widget.EditText;
import android.widget.Spinner;
import android.widget.TextView;

/**
 * The activity's life on a phone, acted out. First word: {@code again} is a screen made anew after a run, {@code press}
 * a person who presses the button, {@code leave} one who leaves the app while it measures, {@code asked} an intent.
 */
public final class Screen {
    public static void main(String[] words) throws InterruptedException {
        BenchmarkActivity activity = new BenchmarkActivity();
        activity.views.put(R.id.engine, new TextView());
        activity.views.put(R.id.model, new Spinner());
        activity.views.put(R.id.result, new TextView());
        Button button = new Button();
        activity.views.put(R.id.start, button);
        put(activity, R.id.inputs, "float32:2,3");
        put(activity, R.id.threads, "1");
        put(activity, R.id.warmup, "2");
        put(activity, R.id.iterations, "7");
        for (int index = 1; index < words.length; index++) {
            String[] extra = words[index].split("=", 2);
            Object value = extra[1].matches("[0-9]+") ? Integer.valueOf(extra[1]) : extra[1];
            activity.getIntent().getExtras().values.put(extra[0], value.equals("false") ? Boolean.FALSE : value);
        }
        activity.onCreate(words[0].equals("again") ? new Bundle() : null);
        activity.onResume();
        System.out.println("threads before focus: " + benchmarks());
        activity.onWindowFocusChanged(true);
        if (words[0].equals("press")) {
            button.listener.onClick(button);
        }
        System.out.println("button while measuring: " + button.enabled);
        System.out.println("sustained while measuring: " + activity.getWindow().sustained);
        if (words[0].equals("leave")) {
            activity.onWindowFocusChanged(false);
            activity.onStop();
            activity.onWindowFocusChanged(true);
        }
        while (benchmarks() > 0) {
            Thread.sleep(5);
        }
        System.out.println("button after: " + button.enabled);
        System.out.println("sustained after: " + activity.getWindow().sustained);
        System.out.println("flags: " + activity.getWindow().flags);
        TextView shown = activity.findViewById(R.id.result);
        System.out.println("shown: " + shown.getText());
    }

    private static void put(BenchmarkActivity activity, int id, String text) {
        EditText field = new EditText();
        field.setText(text);
        activity.views.put(id, field);
    }

    private static long benchmarks() {
        return Thread.getAllStackTraces().keySet().stream()
                .filter(thread -> thread.getName().equals("benchmark"))
                .count();
    }
}
