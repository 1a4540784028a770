class Main {
    static void fill(int row, int taken, int out, long count, long[] next) {
        if (row == 4) {
            next[out] += count;
        } else if ((taken >> row & 1) == 1) {
            fill(row + 1, taken, out, count, next);
        } else {
            fill(row + 1, taken, out | 1 << row, count, next); // a tile along the corridor
            if (row == 3 || (taken >> (row + 1) & 1) == 1) return;
            fill(row + 2, taken, out, count, next); // one across
            fill(row + 2, taken, out | 3 << row, count, next); // a square one
        }
    }

    public static void main(String[] args) {
        long[] ways = new long[16]; // by the units of the column that are covered already
        ways[0] = 1;
        for (int column = 0; column < 18; column++) {
            long[] next = new long[16];
            for (int taken = 0; taken < 16; taken++) fill(0, taken, 0, ways[taken], next);
            ways = next;
        }
        System.out.println(ways[0]);
    }
}
