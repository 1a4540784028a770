import java.util.Arrays;
import java.util.Comparator;
import java.util.PriorityQueue;

class Main {
    static final int SIZE = 120;

    static int cost(int r, int c) {
        return 1 + (r * r * 37 + c * c * 91 + r * c * 53) % 97;
    }

    public static void main(String[] args) {
        int[] least = new int[SIZE * SIZE];
        Arrays.fill(least, Integer.MAX_VALUE);
        PriorityQueue<int[]> queue = new PriorityQueue<>(Comparator.comparingInt((int[] entry) -> entry[0]));
        queue.add(new int[] {cost(0, 0), 0, 0});
        while (true) {
            int[] entry = queue.remove();
            int paid = entry[0], r = entry[1], c = entry[2];
            if (r == SIZE - 1 && c == SIZE - 1) {
                System.out.println(paid);
                return;
            }
            for (int way = 0; way < 4; way++) {
                int y = r + (way - 1) % 2, x = c + (way - 2) % 2;
                if (y < 0 || y >= SIZE || x < 0 || x >= SIZE) continue;
                if (paid + cost(y, x) < least[y * SIZE + x]) {
                    least[y * SIZE + x] = paid + cost(y, x);
                    queue.add(new int[] {paid + cost(y, x), y, x});
                }
            }
        }
    }
}
