import java.util.Arrays;

class Main {
    static final long[][][] KNOWN = new long[13][11][13];

    /** Ways to finish with `left` digits; `last` is 10 before the first digit that is not zero. */
    static long finish(int left, int last, int sum) {
        if (left == 0) return last != 10 && sum == 0 ? 1 : 0;
        if (KNOWN[left][last][sum] >= 0) return KNOWN[left][last][sum];
        long ways = 0;
        for (int digit = 0; digit < 10; digit++)
            if (last == 10 || last + digit != 9)
                ways += finish(left - 1, last == 10 && digit == 0 ? 10 : digit, (sum + digit) % 13);
        return KNOWN[left][last][sum] = ways;
    }

    public static void main(String[] args) {
        for (long[][] plane : KNOWN) for (long[] line : plane) Arrays.fill(line, -1);
        System.out.println(finish(12, 10, 0));
    }
}
