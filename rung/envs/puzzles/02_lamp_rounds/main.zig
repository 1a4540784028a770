const std = @import("std");

pub fn main() void {
    var on = std.mem.zeroes([5001]bool);
    for (1..401) |k| {
        for (1..5001) |n| {
            if ((n + k * k) % (k + 3) == 0) on[n] = !on[n];
        }
    }
    var sum: u64 = 0;
    for (on, 0..) |lit, n| {
        if (lit) sum += n;
    }
    print(sum);
}

fn print(number: u64) void {
    var text: [32]u8 = undefined;
    const line = std.fmt.bufPrint(&text, "{d}\n", .{number}) catch unreachable;
    _ = std.os.linux.write(1, line.ptr, line.len);
}
