package android.widget;

import android.view.View;

public class TextView extends View {
    private CharSequence text = "";

    public final void setText(CharSequence text) {
        this.text = text;
    }

    public final void setText(int id) {
        text = "string " + Integer.toHexString(id);
    }

    public CharSequence getText() {
        return text;
    }
}
