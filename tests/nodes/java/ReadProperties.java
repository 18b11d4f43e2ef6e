import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.util.Properties;

/**
 * Prints what java.util.Properties reads in each file: a line "file", or "refused" if it throws;
 * then a line for each key and value, as the hexadecimal numbers of their UTF-16 units.
 */
class ReadProperties {
    public static void main(String[] paths) throws IOException {
        StringBuilder out = new StringBuilder();
        for (String path : paths) {
            Properties properties = new Properties();
            try (InputStream file = new FileInputStream(path)) {
                properties.load(file);
            } catch (IllegalArgumentException malformed) {
                out.append("refused\n");
                continue;
            }
            out.append("file\n");
            for (String key : properties.stringPropertyNames()) {
                out.append(hex(key)).append('=').append(hex(properties.getProperty(key))).append('\n');
            }
        }
        System.out.print(out);
    }

    private static String hex(String text) {
        StringBuilder made = new StringBuilder();
        for (char unit : text.toCharArray()) {
            made.append(String.format("%04x", (int) unit));
        }
        return made.toString();
    }
}
