package android.view;

public class View {
    public interface OnClickListener {
        void onClick(View view);
    }

    public OnClickListener listener;
    public boolean enabled = true;

    public void setOnClickListener(OnClickListener listener) {
        this.listener = listener;
    }

    public void setEnabled(boolean enabled) {
        this.enabled = enabled;
    }
}
