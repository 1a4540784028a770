class Main {
    public static void main(String[] args) {
        int total = 0;
        for (int p = 0; p < 100; p++)
            for (int q = 0; q < p; q++)
                for (int r = 0; r < q; r++) {
                    int px = p % 10, py = p / 10, qx = q % 10, qy = q / 10, rx = r % 10, ry = r / 10;
                    if (Math.abs(px * (qy - ry) + qx * (ry - py) + rx * (py - qy)) == 12) total++;
                }
        System.out.println(total);
    }
}
