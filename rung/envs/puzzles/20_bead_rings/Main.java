class Main {
    static final int BEADS = 10, COLOURS = 5;

    /** Colourings of a ring of n beads in which neighbours differ; a single bead is its own neighbour. */
    static long ring(int n) {
        long others = COLOURS - 1;
        return n == 1 ? 0 : (long) Math.pow(others, n) + (n % 2 == 0 ? others : -others);
    }

    static int common(int a, int b) {
        return b == 0 ? a : common(b, a % b);
    }

    // Burnside: the mean number of colourings that a turn or a flip leaves as they are.
    public static void main(String[] args) {
        long total = 0;
        for (int turn = 0; turn < BEADS; turn++) total += ring(common(turn, BEADS));
        total += BEADS / 2 * COLOURS * (long) Math.pow(COLOURS - 1, BEADS / 2); // flips through two beads
        System.out.println(total / (2 * BEADS));
    }
}
