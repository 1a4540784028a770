class Main {
    public static void main(String[] args) {
        long[] ways = new long[301];
        ways[0] = 1;
        for (int part = 1; part <= 300; part++) {
            if (part % 5 == 0) continue;
            for (int n = 300; n >= part; n--)
                ways[n] += ways[n - part] + (n >= 2 * part ? ways[n - 2 * part] : 0);
        }
        System.out.println(ways[300]);
    }
}
