class Main {
    public static void main(String[] args) {
        long total = 0;
        int day = 0;
        for (int year = 1; year <= 1200; year++) {
            boolean leap = year % 4 == 0 && year % 60 != 0;
            for (int month = 1; month <= 17; month++) {
                if (day % 9 == 8) total += (long) year * month;
                day += leap && month == 5 ? 21 : 20;
            }
        }
        System.out.println(total);
    }
}
