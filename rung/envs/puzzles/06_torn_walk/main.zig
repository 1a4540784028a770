const std = @import("std");

// The walk never strays 2048 squares from its start; the index check would say so.
const side = 4096;
var seen: [side * side]bool = undefined;

pub fn main() void {
    @memset(&seen, false);
    var at: usize = side * side / 2 + side / 2;
    var s: usize = 1;
    var count: u64 = 1;
    seen[at] = true;
    for (0..50000) |_| {
        s = (1109 * s + 12345) % 65536;
        at = switch (s / 16384) {
            0 => at + side,
            1 => at + 1,
            2 => at - side,
            else => at - 1,
        };
        if (!seen[at]) count += 1;
        seen[at] = true;
    }
    print(count);
}

fn print(number: u64) void {
    var text: [32]u8 = undefined;
    const line = std.fmt.bufPrint(&text, "{d}\n", .{number}) catch unreachable;
    _ = std.os.linux.write(1, line.ptr, line.len);
}
