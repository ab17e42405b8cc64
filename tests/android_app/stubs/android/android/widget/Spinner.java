package android.widget;

import android.view.View;

public class Spinner extends View {
    private ArrayAdapter<?> adapter;

    public void setAdapter(SpinnerAdapter adapter) {
        this.adapter = (ArrayAdapter<?>) adapter;
    }

    public int getCount() {
        return adapter.objects.length;
    }

    public Object getSelectedItem() {
        return adapter.objects[0];
    }
}
