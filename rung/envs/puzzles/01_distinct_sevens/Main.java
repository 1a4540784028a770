import java.util.stream.IntStream;

class Main {
    static boolean tidy(int n) {
        String text = Integer.toString(n);
        return text.chars().distinct().count() == text.length() && text.chars().map(c -> c - '0').sum() % 7 == 0;
    }

    public static void main(String[] args) {
        System.out.println(IntStream.range(1, 100000).filter(Main::tidy).asLongStream().sum());
    }
}
