package android.os;

public final class PowerManager {
    public boolean isSustainedPerformanceModeSupported() {
        return Boolean.getBoolean("sustained");
    }
}
