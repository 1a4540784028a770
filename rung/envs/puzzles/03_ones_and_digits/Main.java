class Main {
    public static void main(String[] args) {
        long total = 0;
        for (int n = 1; n <= 200000; n++) {
            int digits = String.valueOf(n).chars().map(Character::getNumericValue).sum();
            if (digits == Integer.bitCount(n)) total += n;
        }
        System.out.println(total);
    }
}
