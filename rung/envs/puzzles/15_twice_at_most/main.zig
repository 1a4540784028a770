const std = @import("std");

pub fn main() void {
    var ways = std.mem.zeroes([301]u64);
    ways[0] = 1;
    for (1..301) |part| {
        if (part % 5 == 0) continue;
        var n: usize = 300;
        while (n >= part) : (n -= 1) {
            ways[n] += ways[n - part];
            if (n >= 2 * part) ways[n] += ways[n - 2 * part];
        }
    }
    print(ways[300]);
}

fn print(number: u64) void {
    var text: [32]u8 = undefined;
    const line = std.fmt.bufPrint(&text, "{d}\n", .{number}) catch unreachable;
    _ = std.os.linux.write(1, line.ptr, line.len);
}
