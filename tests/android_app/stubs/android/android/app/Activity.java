package android.app;

import android.content.Context;
import android.content.Intent;
import android.os.Bundle;
import android.view.View;
import android.view.Window;
import java.util.HashMap;
import java.util.Map;

public class Activity extends Context {
    public final Map<Integer, View> views = new HashMap<>();
    public boolean focused;
    private final Window window = new Window();
    private Intent intent = new Intent();

    protected void onCreate(Bundle state) {}

    protected void onNewIntent(Intent intent) {}

    protected void onResume() {}

    protected void onStop() {}

    public void onWindowFocusChanged(boolean hasFocus) {
        focused = hasFocus;
    }

    public boolean hasWindowFocus() {
        return focused;
    }

    public void setContentView(int layout) {}

    @SuppressWarnings("unchecked")
    public <T extends View> T findViewById(int id) {
        return (T) views.get(id);
    }

    public Window getWindow() {
        return window;
    }

    public Intent getIntent() {
        return intent;
    }

    public void setIntent(Intent intent) {
        this.intent = intent;
    }

    public final void runOnUiThread(Runnable action) {
        action.run();
    }
}
