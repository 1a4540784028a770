import java.util.HashSet;
import java.util.Set;

class Main {
    record Square(int x, int y) {}

    public static void main(String[] args) {
        Square at = new Square(0, 0);
        Set<Square> seen = new HashSet<>(Set.of(at));
        int s = 1;
        for (int step = 0; step < 50000; step++) {
            s = (1109 * s + 12345) % 65536;
            at = switch (s / 16384) {
                case 0 -> new Square(at.x, at.y + 1);
                case 1 -> new Square(at.x + 1, at.y);
                case 2 -> new Square(at.x, at.y - 1);
                default -> new Square(at.x - 1, at.y);
            };
            seen.add(at);
        }
        System.out.println(seen.size());
    }
}
