import java.math.BigInteger;

class Main {
    static final long MODULUS = 1000003;

    // The index is far, the remainders are few: on (t(n), t(n-1), t(n-2), n + 1, 1) by repeated squaring.
    static long[][] times(long[][] a, long[][] b) {
        long[][] product = new long[5][5];
        for (int i = 0; i < 5; i++)
            for (int j = 0; j < 5; j++)
                for (int k = 0; k < 5; k++) product[i][j] = (product[i][j] + a[i][k] * b[k][j]) % MODULUS;
        return product;
    }

    public static void main(String[] args) {
        long[][] step = {{3, 0, 2, 1, 0}, {1, 0, 0, 0, 0}, {0, 1, 0, 0, 0}, {0, 0, 0, 1, 1}, {0, 0, 0, 0, 1}};
        long[][] power = step;
        BigInteger index = BigInteger.TEN.pow(12).subtract(BigInteger.TWO);
        for (int bit = index.bitLength() - 2; bit >= 0; bit--) {
            power = times(power, power);
            if (index.testBit(bit)) power = times(power, step);
        }
        long[] start = {5, 2, 1, 3, 1};
        long term = 0;
        for (int i = 0; i < 5; i++) term += power[0][i] * start[i];
        System.out.println(term % MODULUS);
    }
}
