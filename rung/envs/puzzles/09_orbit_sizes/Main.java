class Main {
    public static void main(String[] args) {
        int modulus = 30011;
        int[] met = new int[modulus]; // the last start, counted from 1, that came by
        long total = 0;
        for (int start = 1; start <= modulus; start++)
            for (long x = start - 1; met[(int) x] != start; x = (x * x + 1) % modulus) {
                met[(int) x] = start;
                total++;
            }
        System.out.println(total);
    }
}
