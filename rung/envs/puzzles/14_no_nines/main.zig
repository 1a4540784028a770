const std = @import("std");

const States = [10][13]u64; // [last digit][sum modulo 13]

pub fn main() void {
    var states = std.mem.zeroes(States);
    for (1..10) |digit| states[digit][digit] = 1;
    var total: u64 = 0;
    for (0..12) |_| {
        var longer = std.mem.zeroes(States);
        for (states, 0..) |sums, last| {
            total += sums[0];
            for (0..10) |digit| {
                if (last + digit == 9) continue;
                for (sums, 0..) |count, sum| longer[digit][(sum + digit) % 13] += count;
            }
        }
        states = longer;
    }
    print(total);
}

fn print(number: u64) void {
    var text: [32]u8 = undefined;
    const line = std.fmt.bufPrint(&text, "{d}\n", .{number}) catch unreachable;
    _ = std.os.linux.write(1, line.ptr, line.len);
}
