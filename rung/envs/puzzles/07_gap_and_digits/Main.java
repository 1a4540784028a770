class Main {
    public static void main(String[] args) {
        int limit = 200200;
        boolean[] composite = new boolean[limit];
        long total = 0;
        int before = 2;
        for (int n = 3; before < 200000; n += 2) {
            if (composite[n]) continue;
            for (long multiple = (long) n * n; multiple < limit; multiple += n) composite[(int) multiple] = true;
            int digits = 0;
            for (int rest = before; rest > 0; rest /= 10) digits += rest % 10;
            if (n - before == digits) total += before;
            before = n;
        }
        System.out.println(total);
    }
}
