// Runs its arguments as statements and says how many rows `t` has; or why it was refused.

import java.sql.DriverManager;
import java.sql.SQLException;
import java.util.Properties;

public class Jdbc {
    public static void main(String[] statements) throws SQLException {
        var properties = new Properties();
        properties.setProperty("user", System.getenv("ROLE"));
        properties.setProperty("password", System.getenv("PASSWORD"));
        properties.setProperty("sslmode", "verify-full");
        properties.setProperty("sslrootcert", System.getenv("CA_FILE"));
        try (var connection = DriverManager.getConnection(System.getenv("URL"), properties);
                var statement = connection.createStatement()) {
            for (var text : statements) statement.execute(text);
            // Bound, and so often that the driver prepares it by name on the server.
            var rows = connection.prepareStatement("SELECT count(*) FROM t WHERE n > ?");
            long count = 0;
            for (int i = 0; i < 7; i++) {
                rows.setInt(1, 0);
                var result = rows.executeQuery();
                result.next();
                count = result.getLong(1);
            }
            System.out.println(count);
        } catch (SQLException refused) {
            System.out.println(refused.getMessage());
        }
    }
}
