package android.content;

import java.io.File;
import java.util.Arrays;

public class Context {
    public final String getString(int id, Object... values) {
        return "string " + Integer.toHexString(id) + " " + Arrays.toString(values);
    }

    public final <T> T getSystemService(Class<T> type) {
        try {
            return type.getDeclaredConstructor().newInstance();
        } catch (ReflectiveOperationException error) {
            throw new IllegalStateException(error);
        }
    }

    public File getExternalFilesDir(String type) {
        return new File(System.getProperty("files"));
    }
}
