class Main {
    /** What a letter has grown into: the ends, and how often ba stands in it. */
    record Word(char first, char last, long count) {
        Word then(Word next) {
            int seam = last == 'b' && next.first == 'a' ? 1 : 0;
            return new Word(first, next.last, count + next.count + seam);
        }
    }

    public static void main(String[] args) {
        Word a = new Word('a', 'a', 0), b = new Word('b', 'b', 0), c = new Word('c', 'c', 0);
        for (int round = 0; round < 40; round++) {
            Word grown = a.then(b), other = c.then(a);
            c = b;
            a = grown;
            b = other;
        }
        System.out.println(a.count());
    }
}
