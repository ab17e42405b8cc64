package android.widget;

import android.content.Context;

public class ArrayAdapter<T> implements SpinnerAdapter {
    final T[] objects;

    public ArrayAdapter(Context context, int resource, T[] objects) {
        this.objects = objects;
    }
}
