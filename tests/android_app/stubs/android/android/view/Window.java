package android.view;

public class Window {
    public int flags;
    public boolean sustained;

    public void addFlags(int added) {
        flags |= added;
    }

    public void setSustainedPerformanceMode(boolean enable) {
        sustained = enable;
    }
}
