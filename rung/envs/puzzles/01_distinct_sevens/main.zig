const std = @import("std");

fn tidy(n: u64) bool {
    var seen = std.mem.zeroes([10]bool);
    var sum: u64 = 0;
    var rest = n;
    while (rest > 0) : (rest /= 10) {
        if (seen[rest % 10]) return false;
        seen[rest % 10] = true;
        sum += rest % 10;
    }
    return sum % 7 == 0;
}

pub fn main() void {
    var total: u64 = 0;
    for (1..100000) |n| {
        if (tidy(n)) total += n;
    }
    print(total);
}

fn print(number: u64) void {
    var text: [32]u8 = undefined;
    const line = std.fmt.bufPrint(&text, "{d}\n", .{number}) catch unreachable;
    _ = std.os.linux.write(1, line.ptr, line.len);
}
