class Main {
    public static void main(String[] args) {
        long total = 0;
        for (int n = 1; n <= 60000; n++) {
            int back = Integer.parseInt(new StringBuilder().append(n).reverse().toString());
            int gap = Math.abs(n - back), root = (int) Math.round(Math.sqrt(gap));
            if (gap > 0 && root * root == gap) total += n;
        }
        System.out.println(total);
    }
}
