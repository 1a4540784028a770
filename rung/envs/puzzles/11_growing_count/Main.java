import java.util.List;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

class Main {
    public static void main(String[] args) {
        List<Integer> people = IntStream.rangeClosed(1, 4001).boxed().collect(Collectors.toList());
        int place = 0, sum = 0;
        for (int count = 1; !people.isEmpty(); count++) {
            place = (place + count - 1) % people.size();
            boolean late = people.size() <= 5;
            int gone = people.remove(place);
            if (late) sum += gone;
        }
        System.out.println(sum);
    }
}
