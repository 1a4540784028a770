import java.util.BitSet;

class Main {
    public static void main(String[] args) {
        BitSet on = new BitSet();
        for (int k = 1; k <= 400; k++)
            for (int n = 1; n <= 5000; n++)
                if ((n + k * k) % (k + 3) == 0) on.flip(n);
        System.out.println(on.stream().sum());
    }
}
