class Main {
    static final long[][] KNOWN = new long[17][17];

    static long ways(int r, int c) {
        if (r > 16 || c > 16 || r * c % 7 == 3 || (r + c) % 11 == 5) return 0;
        if (r == 16 && c == 16) return 1;
        if (KNOWN[r][c] == 0) KNOWN[r][c] = ways(r + 1, c) + ways(r, c + 1) + ways(r + 1, c + 1);
        return KNOWN[r][c];
    }

    public static void main(String[] args) {
        System.out.println(ways(1, 1));
    }
}
