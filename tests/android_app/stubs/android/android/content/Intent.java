package android.content;

import android.os.Bundle;

public class Intent {
    private final Bundle extras = new Bundle();

    public boolean hasExtra(String name) {
        return extras.keySet().contains(name);
    }

    public Bundle getExtras() {
        return extras;
    }
}
