class Main {
    static final int[] COINS = {53, 31, 19, 11, 7, 3};

    static int ways(int which, int amount, int left) {
        if (amount == 0) return 1;
        if (which == COINS.length || amount < 0 || left == 0) return 0;
        return ways(which + 1, amount, left) + ways(which, amount - COINS[which], left - 1);
    }

    public static void main(String[] args) {
        System.out.println(ways(0, 700, 40));
    }
}
