package org.deploykit.benchmark;

import android.app.Activity;
import android.content.Intent;
import android.os.Bundle;
import android.os.PowerManager;
import android.view.View;
import android.view.WindowManager;
import android.widget.ArrayAdapter;
import android.widget.Button;
import android.widget.EditText;
import android.widget.Spinner;
import android.widget.TextView;
import java.io.File;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Map;
import org.deploykit.benchmark.core.Job;
import org.deploykit.benchmark.core.Kernel;
import org.deploykit.benchmark.core.Result;
import org.deploykit.benchmark.core.RunnerException;
import org.deploykit.benchmark.core.Summary;

/**
 * Runs a benchmark that a person chooses on the screen, or that the extras of the intent describe (see
 * {@link Job#carryOut}; {@code sustained}, true unless said otherwise, asks the phone for clocks that it can hold).
 */
public final class BenchmarkActivity extends Activity {
    private static final String RUNNER = "deploykit-android 1";

    private Spinner models;
    private TextView shown;
    private Button start;
    private boolean waiting;
    private boolean running;
    private volatile boolean left;

    @Override
    protected void onCreate(Bundle state) {
        super.onCreate(state);
        setContentView(R.layout.activity_benchmark);
        getWindow().addFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON);
        models = findViewById(R.id.model);
        shown = findViewById(R.id.result);
        start = findViewById(R.id.start);
        start.setOnClickListener(this::startChosen);
        this.<TextView>findViewById(R.id.engine).setText(getString(R.string.engine, BuildConfig.RUNTIME));
        waiting = state == null && getIntent().hasExtra("run");
    }

    @Override
    protected void onNewIntent(Intent intent) {
        super.onNewIntent(intent);
        setIntent(intent);
        waiting = intent.hasExtra("run");
        if (hasWindowFocus()) {
            startAsked();
        }
    }

    @Override
    protected void onResume() {
        super.onResume();
        if (!running) {
            listModels();
        }
    }

    /** A run that the extras describe begins here: only now is the app in front, with the cores that this brings. */
    @Override
    public void onWindowFocusChanged(boolean focused) {
        super.onWindowFocusChanged(focused);
        if (focused) {
            startAsked();
        }
    }

    @Override
    protected void onStop() {
        super.onStop();
        left = true;
    }

    private void startAsked() {
        if (!waiting || running) {
            return;
        }
        waiting = false;
        Map<String, String> extras = new LinkedHashMap<>();
        Bundle given = getIntent().getExtras();
        for (String key : given.keySet()) {
            extras.put(key, String.valueOf(given.get(key)));
        }
        begin(extras);
    }

    private void startChosen(View button) {
        Map<String, String> extras = new LinkedHashMap<>();
        extras.put("run", "by-hand-" + System.currentTimeMillis());
        extras.put("model", String.valueOf(models.getSelectedItem()));
        extras.put("inputs", text(R.id.inputs));
        extras.put("threads", text(R.id.threads));
        extras.put("warmup", text(R.id.warmup));
        extras.put("iterations", text(R.id.iterations));
        begin(extras);
    }

    private void begin(Map<String, String> extras) {
        boolean wanted = !"false".equals(extras.remove("sustained"));
        boolean sustained = wanted && getSystemService(PowerManager.class).isSustainedPerformanceModeSupported();
        getWindow().setSustainedPerformanceMode(sustained);
        String runner = sustained ? RUNNER + ", sustained performance mode" : RUNNER;
        running = true;
        left = false;
        start.setEnabled(false);
        shown.setText(R.string.running);
        File files = getExternalFilesDir(null);
        new Thread(() -> {
            String text;
            try {
                Result result = Job.carryOut(extras, files, Engines.create(), new Kernel(), runner, () -> left);
                text = describe(extras.get("model"), result, files + "/runs/" + extras.get("run"));
            } catch (RunnerException error) {
                text = getString(R.string.failed, error.getMessage());
            }
            String said = text;
            runOnUiThread(() -> finished(said));
        }, "benchmark").start();
    }

    private void finished(String text) {
        running = false;
        getWindow().setSustainedPerformanceMode(false);
        start.setEnabled(models.getCount() > 0);
        shown.setText(text);
        startAsked();
    }

    private String describe(String model, Result result, String folder) {
        Summary summary = Summary.of(result.samples());
        return getString(
                R.string.result,
                model,
                summary.p50(),
                summary.mean(),
                summary.std() == null ? "-" : String.format("%.2f", summary.std()),
                summary.p90(),
                summary.min(),
                summary.max(),
                summary.samples(),
                result.first() / 1e6,
                result.load() / 1e6,
                folder);
    }

    private void listModels() {
        File files = getExternalFilesDir(null);
        String[] names = files == null ? null : files.list((folder, name) -> name.endsWith(Engines.SUFFIX));
        String[] found = names == null ? new String[0] : names;
        Arrays.sort(found);
        models.setAdapter(new ArrayAdapter<>(this, android.R.layout.simple_spinner_dropdown_item, found));
        start.setEnabled(found.length > 0);
        if (found.length == 0) {
            shown.setText(getString(R.string.no_models, Engines.SUFFIX, String.valueOf(files)));
        }
    }

    private String text(int field) {
        return this.<EditText>findViewById(field).getText().toString().trim();
    }
}
