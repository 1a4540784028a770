import java.util.HashSet;
import java.util.Set;

class Main {
    public static void main(String[] args) {
        int[] value = new int[201]; // Grundy's, of a heap of each size
        for (int size = 0; size <= 200; size++) {
            Set<Integer> reached = new HashSet<>();
            if (size >= 2) reached.add(value[size - 2]);
            for (int root = 1; root * root <= size; root++) reached.add(value[size - root * root]);
            while (reached.contains(value[size])) value[size]++;
        }
        long total = 0;
        for (int a = 1; a <= 200; a++)
            for (int b = a; b <= 200; b++)
                if (value[a] == value[b]) total += a * b;
        System.out.println(total);
    }
}
